"""Writing a report: collect, make pictures, render, and put the file in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.files import OutputError, write_text
from toolkit.progress import progress
from toolkit.reporting.collect import ShownGroup, collect_report
from toolkit.reporting.gallery import Answers, image_record, try_answers
from toolkit.reporting.page import image_key, render_page, vega_script
from toolkit.reporting.pictures import picture_edge


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        path: the page.
        size: in bytes.
        methods: number of rows over all groups.
        images: number of test images.
        left_out: one line for each run that is not shown.
    """

    path: Path
    size: int
    methods: int
    images: int
    left_out: tuple[str, ...]


def write_report(
    places: Sequence[Path], out: Path, *, data: Path | None = None, overwrite: bool = False
) -> Written:
    """Write one page about all finished runs at or below the given places.

    Args:
        places: runs, or folders of runs.
        out: the file to write, whole or not at all.
        data: where the data lies now, if it was moved since the runs were made.
        overwrite: whether an existing file may be replaced.

    Raises:
        OutputError: the file exists and `overwrite` is false, or cannot be written.
        RunError: there is no run that can be shown.
        MissingExtraError: the plotting library is not installed.
    """
    if out.is_dir():
        raise OutputError(f"{out}: is a folder; name a file, such as {out / 'report.html'}")
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: already there; choose another --out or add --overwrite")
    vega_script()  # what is missing is said before pictures are made
    collected = collect_report(places, data=data)
    groups, answers, broken = _answered(collected.groups)
    left_out = (*collected.left_out, *broken)
    if not groups:
        raise RunError(f"no run can be shown: {'; '.join(left_out)}")
    images = _images(groups)
    page = render_page(
        groups,
        answers=answers,
        images=images,
        left_out=[_without_roots(line, collected.roots) for line in left_out],
    )
    write_text(out, page)
    return Written(
        path=out,
        size=out.stat().st_size,
        methods=sum(len(group.methods) for group in groups),
        images=len(images),
        left_out=left_out,
    )


def _answered(
    groups: Sequence[ShownGroup],
) -> tuple[list[ShownGroup], list[Mapping[str, Answers]], list[str]]:
    """Read all predictions; methods whose predictions cannot be read leave their group."""
    whole: list[ShownGroup] = []
    found: list[Mapping[str, Answers]] = []
    left_out: list[str] = []
    steps = sum(len(group.samples) * len(group.methods) for group in groups)
    with progress("predictions", steps) as bar:
        for group in groups:
            said = {m.name: try_answers(m, bar) for m in group.methods}
            broken = {name: one for name, one in said.items() if isinstance(one, str)}
            left_out += list(broken.values())
            if len(broken) < len(group.methods):
                whole.append(group.without(broken))
                found.append({n: one for n, one in said.items() if isinstance(one, Answers)})
    return whole, found, left_out


def _images(groups: Sequence[ShownGroup]) -> dict[str, Any]:
    samples = {
        image_key(group.metadata.fingerprint, sample.id): sample
        for group in groups
        for sample in group.samples
    }
    edge = picture_edge(len(samples))
    images = {}
    with progress("pictures", len(samples)) as bar:
        for key, sample in samples.items():
            images[key] = image_record(sample, edge)
            bar.advance()
    return images


def _without_roots(line: str, roots: Mapping[str, str]) -> str:
    """Take the place of the data on this machine out of a message that others will read."""
    for root, name in sorted(roots.items(), key=lambda item: -len(item[0])):
        line = line.replace(root, name)
    return line

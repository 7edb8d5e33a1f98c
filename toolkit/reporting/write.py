"""Write the report: collect runs, encode images, render the page, write the file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from toolkit.errors import RunError
from toolkit.files import OutputError, write_text
from toolkit.progress import progress
from toolkit.reporting.collect import GroupResults, MethodResults, collect_report
from toolkit.reporting.curves import ProCurve
from toolkit.reporting.images import ImageSource, thumbnail_edge
from toolkit.reporting.page import render_page, vega_script
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.run import Run


class RunLeftOutWarning(UserWarning):
    """A run is damaged or unfinished, and not on the page."""


class ImagesMissingWarning(UserWarning):
    """Test images are not where they were when the runs were made, or have changed."""


def report(
    runs: str | os.PathLike[str] | Run | Iterable[str | os.PathLike[str] | Run],
    out: str | os.PathLike[str] = "report.html",
    *,
    data: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one HTML page with the leaderboard, plots and every test image of finished runs.

    The page opens from disk and needs no network. Metrics are read from the runs; of the data set
    only images and masks are needed, and without them the page has empty frames.

    Example:
        >>> toolkit.report("runs/bottle", "bottle.html")  # doctest: +SKIP
        PosixPath('bottle.html')

    Args:
        runs: runs, or folders of runs.
        out: file to write; it appears complete or not at all.
        data: folder of the data set, if it was moved since the runs were made.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path of the page.

    Raises:
        OutputError: the file exists and `overwrite` is false, or cannot be written.
        RunError: there is no usable run.
        DataError: there is no data set at `data`.
        MissingExtraError: the plotting library is not installed.

    Warns:
        RunLeftOutWarning: once for each run that is damaged or unfinished.
        ImagesMissingWarning: test images were not found or have changed.
    """
    out = Path(out)
    try:
        is_folder, is_there = out.is_dir(), out.exists()
    except (OSError, ValueError) as error:  # such as a name that is too long
        raise OutputError(f"{out}: cannot be written ({error})") from error
    if is_folder:
        raise OutputError(f"{out}: is a folder; name a file, such as {out / 'report.html'}")
    if is_there and not overwrite:
        raise OutputError(f"{out}: already there; choose another --out or add --overwrite")
    vega_script()  # a missing package is reported before the long work
    given = [runs] if isinstance(runs, str | os.PathLike | Run) else list(runs)
    places = [one.path if isinstance(one, Run) else Path(one) for one in given]
    content = collect_report(places, data=Path(data) if data is not None else None)
    for line in content.left_out:
        warnings.warn(line, RunLeftOutWarning, stacklevel=2)
    if not content.groups:
        raise RunError(f"no usable run: {'; '.join(content.left_out)}")
    sources = {g.board.fingerprint: _open_source(g) for g in content.groups}
    images, index, messages = _encode_images(content.groups, sources)
    for line in messages:
        warnings.warn(line, ImagesMissingWarning, stacklevel=2)
    page = render_page(
        content.groups,
        pro=[
            {m.name: _pro_points(m, sources[g.board.fingerprint]) for m in g.methods}
            for g in content.groups
        ],
        images=images,
        image_index=index,
        overviews=content.overviews,
        messages=[_hide_folders(line, content.folders) for line in messages],
        left_out=[_hide_folders(line, content.folders) for line in content.left_out],
    )
    write_text(out, page)
    return out


def _open_source(group: GroupResults) -> ImageSource:
    """Open the first folder that exists of those that the runs name."""
    stored = [one.run.record["data"] for method in group.methods for one in method.runs]
    found = next((data for data in stored if Path(data["root"]).is_dir()), stored[0])
    return ImageSource.open(
        Path(found["root"]), layout=found["layout"], fingerprint=group.board.fingerprint
    )


def _encode_images(
    groups: Sequence[GroupResults], sources: Mapping[str, ImageSource]
) -> tuple[list[dict[str, Any]], dict[tuple[str, str], int], list[str]]:
    """Return the test images as JSON values, where each of them is, and what is missing."""
    labels = {
        (group.board.fingerprint, sample_id): label
        for group in groups
        for sample_id, label in group.methods[0].labels.items()
    }
    sizes = {
        (group.board.fingerprint, sample_id): size
        for group in groups
        for method in group.methods
        for one in method.runs
        for sample_id, size in one.sizes.items()
    }
    edge = thumbnail_edge(len(labels))
    images: list[dict[str, Any]] = []
    missing: dict[str, int] = dict.fromkeys(sources, 0)
    with progress("images", len(labels)) as bar:
        for (data, sample_id), label in labels.items():
            record = sources[data].record(sample_id, label, edge)
            if record is None:
                missing[data] += 1
                # A predicted mask has the size of its image.
                width, height = sizes.get((data, sample_id), (0, 0))
                record = {"width": width, "height": height, "webp": "", "truth": ""}
            images.append(record)
            bar.advance()
    messages = []
    for data, source in sources.items():
        n = sum(key[0] == data for key in labels)
        if missing[data]:
            messages.append(
                f"images not found at {source.root} ({missing[data]} of {n}); name the folder of "
                "the data set with --data"
            )
        elif source.changed or not source.samples:
            messages.append(
                f"{source.root}: differs from the data of the runs (images, labels or masks were "
                "changed or removed); images and true outlines may not fit the metrics"
            )
    return images, {key: i for i, key in enumerate(labels)}, messages


def _pro_points(method: MethodResults, source: ImageSource) -> list[tuple[float, float]] | None:
    """Return the PRO curve; None without anomaly maps, or where a true mask is not known."""
    map_values = [values for one in method.runs for values in one.map_values]
    if source.changed or len(map_values) < len(method.labels):
        return None
    curve = ProCurve(map_values)
    for one in method.runs:
        for prediction in read_predictions(one.run.predictions, "test"):
            truth = source.truth(str(prediction.sample_id))
            if truth is None or prediction.anomaly_map is None:
                return None
            size = (truth.shape[1], truth.shape[0])
            heat = cv2.resize(prediction.anomaly_map, size, interpolation=cv2.INTER_LINEAR)
            curve.add(heat, truth)
    return curve.points()


def _hide_folders(line: str, folders: Mapping[str, str]) -> str:
    """Replace folders of data sets by their names, as others will read the page."""
    for folder, name in sorted(folders.items(), key=lambda item: -len(item[0])):
        line = line.replace(folder, name)
    return line

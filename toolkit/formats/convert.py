"""Convert a data set: choose the images, extract their regions, write them in a target format."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.data.types import Dataset
from toolkit.errors import ConfigError, DataError, did_you_mean
from toolkit.files import folder_written_whole, write_json
from toolkit.formats.extract import Item, extract
from toolkit.formats.job import Job, Writer
from toolkit.formats.options import Backgrounds, Images, Options
from toolkit.formats.report import REPORT_NAME, Report
from toolkit.formats.selection import Entry, select
from toolkit.formats.yolo import YoloWriter

if TYPE_CHECKING:
    from toolkit.data.splits import Split
    from toolkit.progress import Progress

WRITERS: dict[str, type[Writer]] = {"yolo": YoloWriter}


def convert(
    dataset: Dataset,
    *,
    to: str,
    out: Path,
    split: Split | None = None,
    images: Images = "link",
    backgrounds: Backgrounds = "all",
    connectivity: int = 8,
    min_area: int = 1,
    image_size: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a data set in another format.

    Raises:
        ConfigError: an option is wrong.
        DataError: with `strict`, the first wrong input.
        OutputError: the output exists, or cannot be written.
    """
    options = Options(
        images=images,
        backgrounds=backgrounds,
        connectivity=connectivity,
        min_area=min_area,
        image_size=image_size,
    )
    if to not in WRITERS:
        raise ConfigError(f"--to {to}: unknown format{did_you_mean(to, WRITERS)}")
    started = time.perf_counter()
    classes = dataset.classes
    class_index: Mapping[str, int | None] = {name: i for i, name in enumerate(classes)}
    selection = select(dataset, split=split, backgrounds=backgrounds, seed=options.seed)
    job = Job(
        dataset=dataset,
        out=Path(out),
        options=options,
        classes=classes,
        prompts=_prompts(dataset, classes),
        counts=Counter(entry.part for entry in selection.entries),
        fingerprint=dataset.fingerprint,
        split_hash=split.plan_hash if split else None,
        fold=split.fold if split else None,
    )
    report = Report(
        dataset=dataset.name,
        to=to,
        out=job.out,
        classes=classes,
        fingerprint=job.fingerprint,
        split_hash=job.split_hash,
        fold=job.fold,
        backgrounds=selection.backgrounds,
    )
    with folder_written_whole(job.out, overwrite=overwrite) as folder:
        writer = WRITERS[to](folder, job)
        for item in _items(selection.entries, class_index=class_index, options=options):
            if item.problem is not None:
                if strict:
                    raise DataError(item.problem.message)
                report.problems.append(item.problem)
            else:
                payload = writer.encode(item)
                writer.collect(item, payload)
                _count(report, item)
            if progress is not None:
                progress.advance()
        writer.finish()
        write_json(folder / REPORT_NAME, report.record())
    report.seconds = time.perf_counter() - started
    return report


def _items(
    entries: tuple[Entry, ...], *, class_index: Mapping[str, int | None], options: Options
) -> Iterator[Item]:
    for entry in entries:
        yield extract(entry, class_index=class_index, options=options)


def _count(report: Report, item: Item) -> None:
    entry = item.entry
    report.images.setdefault(entry.part, Counter())[entry.sample.label] += 1
    for one in item.labelled:
        report.regions[report.classes[one.class_index]] += 1
    report.found += item.found
    report.merged += item.merged
    report.dropped.update(item.dropped)


def _prompts(dataset: Dataset, classes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.replace("_", " ") for name in classes)

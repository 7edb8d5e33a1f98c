"""Convert a data set: choose the images, extract their regions, write them in a target format."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolkit.data.dataset_cards import prompts_for
from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset
from toolkit.errors import ConfigError, DataError, did_you_mean
from toolkit.files import atomic_folder, remove_leftovers, write_json
from toolkit.formats.coco import CocoWriter
from toolkit.formats.imagefolder import ImageFolderWriter
from toolkit.formats.options import Backgrounds, Images, Options, class_map, suspicious_names
from toolkit.formats.pipeline import (
    Job,
    Writer,
    check_files,
    process,
    select,
)
from toolkit.formats.report import (
    REPORT_NAME,
    Problem,
    Report,
    is_current,
    request_key,
    write_inputs,
)
from toolkit.formats.sam import SamWriter
from toolkit.formats.yolo import YoloSegWriter, YoloWriter
from toolkit.verification.checksums import write_checksums

if TYPE_CHECKING:
    from toolkit.data.splits import Split
    from toolkit.formats.extract import Item
    from toolkit.progress import Progress

WRITERS: dict[str, type[Writer]] = {
    "yolo": YoloWriter,
    "yolo-seg": YoloSegWriter,
    "coco": CocoWriter,
    "sam": SamWriter,
    "imagefolder": ImageFolderWriter,
}
_NO_PLACE = "good image: the format has no place for it"
_PROGRESS_SECONDS = 0.2


def convert(
    dataset: Dataset | Path | str,
    *,
    to: str,
    out: Path | str,
    split: Split | None = None,
    images: Images = "link",
    backgrounds: Backgrounds = "all",
    connectivity: int = 8,
    min_area: int = 1,
    merge_distance: float = 0.0,
    classes: str | Mapping[str, str | None] = "defect-type",
    mask_values: Mapping[int, str] | None = None,
    mask_threshold: int | None = None,
    image_size: int | None = None,
    segmentation: Literal["rle", "polygon"] = "rle",
    points: int = 3,
    box_jitter: float = 0.1,
    seed: int = 0,
    preview: int = 0,
    workers: int = 1,
    overwrite: bool = False,
    strict: bool = False,
    progress: Callable[[int], AbstractContextManager[Progress]] | None = None,
) -> Report:
    """Write a data set in another format.

    The output appears under its name only when it is complete. If it exists already and neither the
    inputs nor the options have changed, nothing is done and `up_to_date` is set in the report.

    Example:
        >>> report = convert(load_dataset("mvtec/bottle"), to="coco", out="bottle-coco")
        >>> report.n_regions
        68

    Args:
        dataset: the data set to convert, or its folder.
        to: `yolo`, `yolo-seg`, `coco`, `sam` or `imagefolder`.
        out: the folder to make.
        split: assigns images to parts; None keeps the parts of the data set's authors.
        images: how images get into the output.
        backgrounds: good images in the training part: a count, a share of that part (a float below
            1), or all. Good validation and test images always stay.
        connectivity: 8 (diagonal neighbours touch) or 4.
        min_area: regions of fewer pixels are dropped.
        merge_distance: regions of one class in one image whose nearest pixels are at most this far
            apart are joined; 0 joins nothing.
        classes: `defect-type`, `single`, or a mapping from defect type to class (None drops it).
        mask_values: class of each mask value, for masks that hold class indices.
        mask_threshold: mask values above it are defect; None: any value but 0, except in masks with
            grey edges, see `toolkit.data.images.read_mask`.
        image_size: longest side in pixels to which images and geometry are resized.
        segmentation: how `coco` writes masks.
        points: positive and as many negative points per region (`sam`).
        box_jitter: standard deviation of the jittered box, as a share of its side (`sam`).
        seed: of all random choices.
        preview: number of images on a contact sheet `preview.png`.
        workers: number of processes.
        overwrite: whether an existing output may be replaced.
        strict: whether the first wrong input ends the conversion.
        progress: called with the number of images, opens the progress bar.

    Returns:
        Counts of what was written and left out, and all problems; also in `report.json`.

    Raises:
        ConfigError: an option is wrong.
        DataError: with `strict`, the first wrong input.
        OutputError: the output exists, or cannot be written.
    """
    started = time.perf_counter()
    options = Options(
        images=images,
        backgrounds=backgrounds,
        connectivity=connectivity,
        min_area=min_area,
        merge_distance=merge_distance,
        classes=classes,
        mask_values=mask_values,
        mask_threshold=mask_threshold,
        image_size=image_size,
        segmentation=segmentation,
        points=points,
        box_jitter=box_jitter,
        seed=seed,
    )
    if to not in WRITERS:
        raise ConfigError(f"--to {to}: unknown format{did_you_mean(to, WRITERS)}")
    if not isinstance(dataset, Dataset):
        dataset = load_dataset(dataset)
    bad, problems, stamps = check_files(dataset)
    dataset, split = _without(dataset, split, bad=bad)
    out = Path(out)
    key = request_key(dataset, to=to, options=options, split=split, preview=preview)
    key += f":{len(problems)}"
    remove_leftovers(out.parent)
    if out.exists() and is_current(dataset, out, key=key):
        report = replace(Report.read(out), up_to_date=True)
        if strict and report.problems:
            raise DataError(report.problems[0].message)
        report.seconds = time.perf_counter() - started
        return report

    entries, chosen = select(dataset, split=split, backgrounds=backgrounds, seed=seed)
    # Folders hold images, all other formats regions, whose types one image may mix.
    labels = dataset.classes if to == "imagefolder" else dataset.region_classes
    names = class_map(labels, options)
    job = Job(
        dataset=dataset,
        out=out,
        options=options,
        class_map=names,
        prompts=tuple(prompts_for(dataset.name, name)[0] for name in names.names),
        counts=Counter(entry.part for entry in entries),
        fingerprint=dataset.fingerprint,
        split_hash=split.plan_hash if split else None,
        fold=split.fold if split else None,
    )
    report = Report(
        dataset=dataset.name,
        to=to,
        out=out,
        classes=job.classes,
        fingerprint=job.fingerprint,
        split_hash=job.split_hash,
        fold=job.fold,
        backgrounds=chosen,
    )
    for problem in [*problems, *suspicious_names(job.classes)]:
        _add_problem(report, problem, strict=strict)
    if not WRITERS[to].takes_good:
        everything, entries = entries, tuple(e for e in entries if e.sample.is_defect)
        report.dropped[_NO_PLACE] += len(everything) - len(entries)
    with atomic_folder(out, overwrite=overwrite) as folder:
        writer = WRITERS[to](folder, job)
        with progress(len(entries)) if progress else nullcontext() as bar:
            items = process(entries, writer, workers=workers)
            for item in _with_progress(items, bar):
                if item.problem is not None:
                    _add_problem(report, item.problem, strict=strict)
                if item.written:
                    writer.collect(item.entry, item.payload)
                _count(report, item)
        writer.finish()
        if preview:
            from toolkit.formats.preview import write_contact_sheet

            write_contact_sheet(folder, count=preview)
        write_json(folder / REPORT_NAME, report.record())
        write_inputs(folder, dataset, key=key, stamps=stamps)
        linked = {os.path.abspath(s.image): dataset.content[s.id] for s in dataset}  # noqa: PTH100
        write_checksums(folder, known=linked)
    report.seconds = time.perf_counter() - started
    return report


def _without(
    dataset: Dataset, split: Split | None, *, bad: set[str]
) -> tuple[Dataset, Split | None]:
    """Leave out samples by their ids."""
    if not bad:
        return dataset, split
    kept = replace(dataset, samples=tuple(s for s in dataset if s.id not in bad))
    if split is not None:
        split = replace(
            split,
            train=tuple(s for s in split.train if s.id not in bad),
            val=tuple(s for s in split.val if s.id not in bad),
            test=tuple(s for s in split.test if s.id not in bad),
        )
    return kept, split


def _with_progress(items: Iterator[Item], bar: Progress | None) -> Iterator[Item]:
    """Report the progress of thousands of images a second a few times a second."""
    started = reported = time.monotonic()
    done = pending = 0
    for item in items:
        yield item
        pending += 1
        now = time.monotonic()
        if bar is not None and now - reported >= _PROGRESS_SECONDS:
            done, reported = done + pending, now
            bar.advance(pending, rate=f"{done / max(now - started, 1e-9):.0f} images/s")
            pending = 0
    if bar is not None and pending:
        rate = (done + pending) / max(time.monotonic() - started, 1e-9)
        bar.advance(pending, rate=f"{rate:.0f} images/s")


def _add_problem(report: Report, problem: Problem, *, strict: bool) -> None:
    if strict:
        raise DataError(problem.message)
    report.problems.append(problem)


def _count(report: Report, item: Item) -> None:
    if item.written:
        report.images.setdefault(item.entry.part, Counter())[item.entry.sample.label] += 1
    for index, count in item.regions.items():
        report.regions[report.classes[index]] += count
    report.found += item.found
    report.merged += item.merged
    report.grey_edges += item.grey_edges
    report.dropped.update(item.dropped)

"""Convert a data set: choose the images, extract their regions, write them in a target format."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolkit.data.dataset_cards import card_names, load_card
from toolkit.data.types import Dataset
from toolkit.errors import ConfigError, DataError, did_you_mean
from toolkit.files import atomic_folder, write_json
from toolkit.formats.classes import class_map, suspicious_names
from toolkit.formats.coco import CocoWriter
from toolkit.formats.imagefolder import ImageFolderWriter
from toolkit.formats.inputs import is_current, request_key, write_inputs
from toolkit.formats.job import Job, Writer
from toolkit.formats.options import Backgrounds, Images, Options
from toolkit.formats.pairing import check_pairing
from toolkit.formats.report import REPORT_NAME, Problem, Report
from toolkit.formats.sam import SamWriter
from toolkit.formats.selection import Selection, select
from toolkit.formats.ticker import Ticker
from toolkit.formats.work import Done, work_through
from toolkit.formats.yolo import YoloWriter
from toolkit.formats.yolo_seg import YoloSegWriter

if TYPE_CHECKING:
    from toolkit.data.splits import Split
    from toolkit.progress import Progress

WRITERS: dict[str, type[Writer]] = {
    "yolo": YoloWriter,
    "yolo-seg": YoloSegWriter,
    "coco": CocoWriter,
    "sam": SamWriter,
    "imagefolder": ImageFolderWriter,
}
_NO_PLACE = "good image: the format has no place for it"


def convert(
    dataset: Dataset,
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

    The output appears under its name only when it is complete. If it is there already and neither
    the inputs nor the options have changed, nothing is done and the report says `up_to_date`.

    Args:
        dataset: what to convert.
        to: `yolo`, `yolo-seg`, `coco`, `sam` or `imagefolder`.
        out: the folder to make.
        split: decides which image goes to which part; the parts of the data set's authors if None.
        images: how images come into the output.
        backgrounds: good images in the training part: a count, a share of that part (a float below
            1), or all. Good validation and test images always stay.
        connectivity: 8 (diagonal neighbours touch) or 4.
        min_area: regions of fewer pixels are dropped.
        merge_distance: regions of one class in one image whose nearest pixels are at most this far
            apart are joined; 0 joins nothing.
        classes: `defect-type`, `single`, or a mapping from defect type to class (None drops it).
        mask_values: class of each mask value, for masks that hold class indices.
        image_size: longest side in pixels to which images and geometry are resized.
        segmentation: how `coco` writes masks.
        points: positive and as many negative points per region (`sam`).
        box_jitter: standard deviation of the jittered box, as a share of its side (`sam`).
        seed: of everything that is drawn.
        preview: number of images on a contact sheet `preview.png`.
        workers: number of processes.
        overwrite: whether an existing output may be replaced.
        strict: whether the first wrong input ends the conversion.
        progress: given the number of images, opens what is told of their progress.

    Returns:
        What was written, dropped and found wrong; it is also in `report.json`.

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
        image_size=image_size,
        segmentation=segmentation,
        points=points,
        box_jitter=box_jitter,
        seed=seed,
    )
    if to not in WRITERS:
        raise ConfigError(f"--to {to}: unknown format{did_you_mean(to, WRITERS)}")
    pairing = check_pairing(dataset)
    dataset, split = _usable(dataset, split, bad=pairing.bad)
    out = Path(out)
    key = request_key(dataset, to=to, options=options, split=split, preview=preview)
    key += f":{len(pairing.problems)}"
    if out.exists() and is_current(dataset, out, key=key):
        report = replace(Report.read(out), up_to_date=True)
        if strict and report.problems:
            raise DataError(report.problems[0].message)
        report.seconds = time.perf_counter() - started
        return report

    selection = select(dataset, split=split, backgrounds=backgrounds, seed=seed)
    job = _job(dataset, out=out, options=options, split=split, selection=selection)
    report = _empty_report(job, to=to, selection=selection)
    for problem in [*pairing.problems, *suspicious_names(job.classes)]:
        _add_problem(report, problem, strict=strict)
    entries = selection.entries
    if not WRITERS[to].takes_good:
        entries = tuple(e for e in entries if e.sample.is_defect)
        report.dropped[_NO_PLACE] += len(selection.entries) - len(entries)
    with atomic_folder(out, overwrite=overwrite) as folder:
        writer = WRITERS[to](folder, job)
        with progress(len(entries)) if progress else nullcontext() as bar:
            ticker = Ticker(bar)
            for done in work_through(entries, writer, workers=workers):
                if done.problem is not None:
                    _add_problem(report, done.problem, strict=strict)
                if done.written:
                    writer.collect(done.entry, done.payload)
                _count(report, done)
                ticker.tick()
            ticker.flush()
        writer.finish()
        if preview:
            from toolkit.formats.preview import write_contact_sheet

            write_contact_sheet(folder, count=preview)
        write_json(folder / REPORT_NAME, report.record())
        write_inputs(folder, dataset, key=key, stamps=pairing.stamps)
    report.seconds = time.perf_counter() - started
    return report


def _usable(
    dataset: Dataset, split: Split | None, *, bad: set[str]
) -> tuple[Dataset, Split | None]:
    """Leave out the samples whose files do not pair up."""
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


def _job(
    dataset: Dataset,
    *,
    out: Path,
    options: Options,
    split: Split | None,
    selection: Selection,
) -> Job:
    names = class_map(dataset.classes, options)
    return Job(
        dataset=dataset,
        out=out,
        options=options,
        class_map=names,
        prompts=_prompts(dataset.name, names.names),
        counts=Counter(entry.part for entry in selection.entries),
        fingerprint=dataset.fingerprint,
        split_hash=split.plan_hash if split else None,
        fold=split.fold if split else None,
    )


def _prompts(dataset_name: str, classes: Sequence[str]) -> tuple[str, ...]:
    known = load_card(dataset_name).defects if dataset_name in card_names() else {}
    return tuple(
        known[name][0] if name in known else re.sub(r"[_/\s]+", " ", name).strip()
        for name in classes
    )


def _empty_report(job: Job, *, to: str, selection: Selection) -> Report:
    return Report(
        dataset=job.dataset.name,
        to=to,
        out=job.out,
        classes=job.classes,
        fingerprint=job.fingerprint,
        split_hash=job.split_hash,
        fold=job.fold,
        backgrounds=selection.backgrounds,
    )


def _add_problem(report: Report, problem: Problem, *, strict: bool) -> None:
    if strict:
        raise DataError(problem.message)
    report.problems.append(problem)


def _count(report: Report, done: Done) -> None:
    if done.written:
        report.images.setdefault(done.entry.part, Counter())[done.entry.sample.label] += 1
    for index, count in done.regions.items():
        report.regions[report.classes[index]] += count
    report.found += done.found
    report.merged += done.merged
    report.dropped.update(done.dropped)

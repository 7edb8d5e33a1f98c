"""The pipeline of a conversion: choose the images, check their files, extract and write each."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from toolkit.data.layouts import unpaired_masks
from toolkit.data.types import GOOD, Dataset, Sample
from toolkit.errors import printable
from toolkit.files import OutputError, short_name
from toolkit.formats.extract import Item, extract
from toolkit.formats.report import Problem, stamp

if TYPE_CHECKING:
    from toolkit.data.splits import Split
    from toolkit.formats.options import Backgrounds, ClassMap, Options

PARTS = ("train", "val", "test")
MIN_IMAGES_PER_WORKER = 250  # starting a process takes longer than converting fewer
_CHUNK = 64
_CHUNKS_PER_WORKER = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of the output.

    Attributes:
        sample: the source.
        part: `train`, `val` or `test`.
        stem: its unique flat name, such as `test__broken_large__000`.
    """

    sample: Sample
    part: str
    stem: str


_NO_ENTRY = Entry(Sample("", Path(), GOOD), "", "")


@dataclass(frozen=True)
class Job:
    """One conversion.

    Attributes:
        dataset: the source.
        out: the folder to make; while it is written it has another name.
        options: the conversion's options.
        class_map: class names, and the index of each label.
        prompts: a readable phrase per class.
        counts: number of images chosen per part.
        fingerprint: of the data set.
        split_hash: of the split, if there is one.
        fold: of the split, if there is one.
    """

    dataset: Dataset
    out: Path
    options: Options
    class_map: ClassMap
    prompts: tuple[str, ...]
    counts: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    split_hash: str | None = None
    fold: int | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices."""
        return self.class_map.names


class Writer(Protocol):
    """What a format module offers; made with the folder to fill and the job.

    Attributes:
        job: the conversion.
        needs_masks: whether masks are read at all.
        takes_good: whether the format has a place for images without a defect.
        needs_outlines: whether boxes alone are too little.
    """

    job: Job
    needs_masks: bool
    needs_outlines: bool
    takes_good: bool

    def __init__(self, folder: Path, job: Job) -> None: ...

    def encode(self, item: Item) -> Any:
        """Write the files of one image and return what `collect` needs; runs in any process."""

    def collect(self, entry: Entry, payload: Any) -> None:
        """Take what `encode` returned; runs in the first process, in the order of the images."""

    def finish(self) -> None:
        """Write the files of the whole data set."""


def select(
    dataset: Dataset, *, split: Split | None, backgrounds: Backgrounds, seed: int
) -> tuple[tuple[Entry, ...], tuple[int, int]]:
    """Choose the images and name them.

    Without a split the parts are those of the data set's authors. Good images of the validation
    and test parts always stay: false positives are counted on them.

    Returns:
        The images in the order of parts and ids, and how many good training images were chosen of
        how many.
    """
    if split is None:
        parts = {part: [s for s in dataset if s.part == part] for part in PARTS}
    else:
        parts = {"train": list(split.train), "val": list(split.val), "test": list(split.test)}
    good = [s for s in parts["train"] if not s.is_defect]
    defects = len(parts["train"]) - len(good)
    wanted = len(good)
    if isinstance(backgrounds, float):
        wanted = min(wanted, round(backgrounds / (1 - backgrounds) * defects))
    elif isinstance(backgrounds, int):
        wanted = min(wanted, backgrounds)
    if wanted < len(good):
        # By content, so the choice does not depend on file names.
        good.sort(key=lambda s: hashlib.sha256(f"{seed}:{dataset.content[s.id]}".encode()).digest())
        chosen = {s.id for s in good[:wanted]}
        parts["train"] = [s for s in parts["train"] if s.is_defect or s.id in chosen]
    stems = flat_stems([s.id for samples in parts.values() for s in samples])
    entries = tuple(
        Entry(sample=s, part=part, stem=stems[s.id])
        for part in PARTS
        for s in sorted(parts[part], key=lambda s: s.id)
    )
    return entries, (wanted, len(good))


def flat_stems(ids: list[str]) -> dict[str, str]:
    """Return a flat, unique file stem for each sample id.

    Folders are joined by `__`; where two ids meet, the later ones (in sorted order) get a number.
    """
    stems: dict[str, str] = {}
    taken: set[str] = set()
    seen: Counter[str] = Counter()
    for name in sorted(ids):
        folder, _, file = name.rpartition("/")
        stem = file.rpartition(".")[0] or file
        flat = short_name("__".join([*folder.split("/"), stem]) if folder else stem)
        unique = flat
        # Case-folded: on a disk that ignores case, A and a are one file.
        while unique.casefold() in taken:
            seen[flat] += 1
            unique = f"{flat}-{seen[flat] + 1}"
        taken.add(unique.casefold())
        stems[name] = unique
    return stems


def check_files(dataset: Dataset) -> tuple[set[str], list[Problem], dict[str, list[int]]]:
    """Find files that are missing or do not pair up, before anything is decoded.

    Returns:
        The ids of the samples that cannot be used, one problem per wrong file, and the `stamp` of
        each file.
    """
    bad: set[str] = set()
    stamps: dict[str, list[int]] = {}
    problems = [
        Problem(
            "mask without image",
            f"{printable(path)}: mask without an image; add the image or remove it",
        )
        for path in unpaired_masks(dataset)
    ]
    by_stem: dict[tuple[str, str], list[Sample]] = defaultdict(list)  # by folder and stem
    for sample in dataset:
        by_stem[(str(sample.image.parent), sample.image.stem)].append(sample)
        for path in (sample.image, *sample.masks):
            reason = "no such file; fix the link"
            try:
                stamps[str(path)] = stamp(path)
                if os.access(path, os.R_OK):
                    continue
                reason = "permission denied; make it readable"
            except FileNotFoundError:
                pass
            except OSError as error:
                reason = f"{error.strerror or 'not a regular file'}; replace it"
            bad.add(sample.id)
            problems.append(Problem("unreadable", f"{printable(path)}: {reason}"))
    for samples in by_stem.values():
        names = sorted({s.image.name for s in samples})
        if len(names) > 1:
            bad.update(s.id for s in samples)
            problems.append(
                Problem(
                    "equal stems",
                    f"{printable(samples[0].image.parent)}: {printable(' and '.join(names))} share "
                    "a name, so their labels cannot be distinguished; rename one of them",
                )
            )
    return bad, problems, stamps


def process(entries: Sequence[Entry], writer: Writer, *, workers: int) -> Iterator[Item]:
    """Extract and write every image; yield the results in the order of the entries.

    Several processes are used only where each has at least 250 images.

    Raises:
        OutputError: something cannot be written, or a process died.
    """
    workers = min(workers, len(entries) // MIN_IMAGES_PER_WORKER)
    if workers <= 1:
        for entry in entries:
            yield _process_one(writer, entry)
        return
    chunk = max(1, min(_CHUNK, len(entries) // (workers * 2) or 1))
    with ProcessPoolExecutor(
        workers, mp_context=_context(), initializer=_begin, initargs=(writer, entries)
    ) as pool:
        waiting: deque[Future[list[tuple[int, Item]]]] = deque()
        chunks = iter([slice(i, i + chunk) for i in range(0, len(entries), chunk)])
        try:
            for part in islice(chunks, workers * _CHUNKS_PER_WORKER):
                waiting.append(pool.submit(_process_chunk, part))
            while waiting:
                finished = waiting.popleft().result()
                for part in islice(chunks, 1):
                    waiting.append(pool.submit(_process_chunk, part))
                for index, item in finished:
                    item.entry = entries[index]
                    yield item
        except BrokenProcessPool as error:
            raise OutputError(
                f"{writer.job.out}: a worker process died, perhaps for lack of memory; use fewer "
                "--workers"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _process_one(writer: Writer, entry: Entry) -> Item:
    job = writer.job
    item = extract(
        entry,
        classes=job.class_map,
        options=job.options,
        with_masks=writer.needs_masks,
        needs_outlines=writer.needs_outlines,
    )
    if item.problem is None and not item.left_out:
        item.payload = writer.encode(item)
        item.regions = Counter(one.class_index for one in item.labelled)
        item.written = True
    item.labelled = []  # they are large
    return item


_state: tuple[Writer, Sequence[Entry]] | None = None  # of this worker process


def _begin(writer: Writer, entries: Sequence[Entry]) -> None:
    global _state
    import cv2

    cv2.setNumThreads(1)  # every core has a process
    _state = writer, entries


def _process_chunk(part: slice) -> list[tuple[int, Item]]:
    if _state is None:
        raise RuntimeError("worker was not initialised")
    writer, entries = _state
    results = []
    for index in range(*part.indices(len(entries))):
        item = _process_one(writer, entries[index])
        item.entry = _NO_ENTRY  # the first process has it; paths are slow to send
        results.append((index, item))
    return results


def _context() -> multiprocessing.context.BaseContext:
    # Forking is quick, but a child waits for ever on threads that torch or OpenCV left behind in
    # the parent. On the command line neither is loaded yet.
    forks = sys.platform == "linux" and not {"torch", "cv2"} & sys.modules.keys()
    return multiprocessing.get_context("fork" if forks else "spawn")


def place_image(item: Item, folder: Path, job: Job) -> Path:
    """Link, copy or resize the image into the folder and return its path there.

    Raises:
        OutputError: the image cannot be written, or hard links are not possible here.
    """
    source = item.entry.sample.image
    if item.size_wh != item.source_wh:
        return _place_resized(item, folder)
    target = folder / f"{item.entry.stem}{source.suffix.lower()}"
    try:
        if job.options.images == "copy":
            shutil.copyfile(source, target)
        elif job.options.images == "hardlink":
            target.hardlink_to(source.resolve())
        else:
            os.symlink(os.path.abspath(source), target)  # noqa: PTH100, PTH211 - half the time of Path
    except OSError as error:
        if job.options.images == "hardlink":
            raise OutputError(
                f"{printable(source)}: cannot be hard-linked ({error.strerror}); use --images copy"
            ) from error
        # These functions blame the source, even where the disk is full.
        raise OutputError(
            f"{printable(job.out)}: cannot be written ({error.strerror}, at {printable(source)}); "
            "make room or choose another --out"
        ) from error
    return target


def _place_resized(item: Item, folder: Path) -> Path:
    import cv2

    from toolkit.data.images import read_rgb

    image = read_rgb(item.entry.sample.image)
    small = cv2.resize(image, item.size_wh, interpolation=cv2.INTER_AREA)
    target = folder / f"{item.entry.stem}.png"
    encoded, data = cv2.imencode(".png", small[..., ::-1])
    if not encoded:
        raise OutputError(f"{printable(target)}: cannot be encoded; convert without --image-size")
    write_bytes(target, data.tobytes())
    return target


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new small file with few system calls."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        while data:
            data = data[os.write(file, data) :]
    finally:
        os.close(file)

"""Find every fault of a data set that would spoil training or falsify a score."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolkit.data.images import MASK_THRESHOLD, read_mask_and_edges, read_rgb
from toolkit.data.layouts import load_dataset, unpaired_masks
from toolkit.data.marks import marked_regions
from toolkit.data.types import Dataset, Sample
from toolkit.errors import DataError, printable
from toolkit.progress import track

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal[
    "unreadable",
    "unpaired",
    "wrong-size",
    "empty-mask",
    "leak",
    "two-labels",
    "duplicate",
    "constant",
    "grey-mask",
    "stray",
]
Severity = Literal["error", "warning"]

_WARNINGS = frozenset({"duplicate", "constant", "grey-mask", "stray"})
_CLOSED_LAYOUTS = frozenset({"mvtec", "loco"})  # other layouts have room for other files
_NOTES = frozenset({".txt", ".md", ".json", ".yaml", ".yml", ".pdf", ".html", ""})


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault.

    Attributes:
        kind: what is wrong: `unreadable` (damaged or cut short), `unpaired` (image without mask,
            mask without image), `wrong-size` (of a mask), `empty-mask`, `leak` (the same pixels
            in train and test), `two-labels` (the same pixels under two labels), `duplicate` (within
            a part and label), `constant` (an image of one colour), `grey-mask` (masks with grey
            edges, which are cut at 127), `stray` (a file without a role).
        path: the file, or the folder of stray files or of masks with grey edges.
        message: what is wrong and the fix, in one line without the path.
        severity: `error`: scores would be wrong; `warning`: look at it.
    """

    kind: Kind
    path: Path
    message: str
    severity: Severity


def check_dataset(data: Dataset | Path | str, *, show_progress: bool = False) -> list[Finding]:
    """Find every fault of a data set. Decodes each image and mask once.

    Images count as equal when their pixels are, whatever their file format.

    Args:
        data: a data set, or its folder.
        show_progress: whether to show progress on standard error.

    Returns:
        The findings, errors first, then by kind and path; empty if there is none.

    Raises:
        DataError: the folder is not a data set.
    """
    dataset = data if isinstance(data, Dataset) else load_dataset(data)
    findings: list[Finding] = []
    copies: dict[bytes, list[Sample]] = defaultdict(list)
    grey: dict[Path, list[Path]] = defaultdict(list)
    has_boxes = any(
        sample.has_boxes for sample in dataset
    )  # else no defect is expected to have one
    for sample in track(dataset.samples, "check", len(dataset), show=show_progress):
        image = _decoded(sample, findings)
        if image is not None:
            copies[_identity(image)].append(sample)
            if (image == image[0, 0]).all():
                findings.append(_finding("constant", sample.image, "one colour; replace the image"))
        shape = None if image is None else image.shape[:2]
        findings.extend(_mask_findings(sample, shape, grey, has_boxes=has_boxes))
    for group in copies.values():
        findings.extend(_copy_findings(group))
    findings.extend(_shared_masks(dataset))
    findings.extend(_grey_masks(grey))
    orphans = unpaired_masks(dataset)
    message = "mask without defect image; add the image or remove the mask"
    findings.extend(_finding("unpaired", path, message) for path in orphans)
    if dataset.layout in _CLOSED_LAYOUTS:
        findings.extend(_strays(dataset, orphans))
    order = {kind: place for place, kind in enumerate(Kind.__args__)}  # type: ignore[attr-defined]
    return sorted(findings, key=lambda f: (f.severity, order[f.kind], f.path, f.message))


def _finding(kind: Kind, path: Path, message: str) -> Finding:
    return Finding(kind, path, message, "warning" if kind in _WARNINGS else "error")


def _unreadable(path: Path, error: DataError) -> Finding:
    return _finding("unreadable", path, str(error).removeprefix(f"{printable(path)}: "))


def _decoded(sample: Sample, findings: list[Finding]) -> NDArray[np.uint8] | None:
    try:
        return read_rgb(sample.image)
    except DataError as error:
        findings.append(_unreadable(sample.image, error))
        return None


def _mask_findings(
    sample: Sample,
    shape: tuple[int, ...] | None,
    grey: dict[Path, list[Path]],
    *,
    has_boxes: bool,
) -> Iterator[Finding]:
    if sample.marks and shape is not None:
        try:
            marked_regions(sample.marks, (shape[1], shape[0]), path=sample.image)
        except DataError as error:
            yield _unreadable(sample.image, error)
    if sample.is_defect and has_boxes and not sample.has_boxes:
        yield _finding(
            "unpaired", sample.image, "defect image without mask; add the mask or move the image"
        )
    for path in sample.masks:
        try:
            mask, grey_edges = read_mask_and_edges(path, threshold=sample.mask_threshold)
        except DataError as error:
            yield _unreadable(path, error)
            continue
        if grey_edges:
            grey[path.parent].append(path)
        if shape is not None and mask.shape != shape:
            yield _finding(
                "wrong-size",
                path,
                f"mask is {mask.shape[1]}x{mask.shape[0]}, its image {printable(sample.id)} is "
                f"{shape[1]}x{shape[0]}; replace one of them",
            )
        if not mask.any():
            yield _finding(
                "empty-mask",
                path,
                f"no defect pixel for {printable(sample.id)}; draw it or remove both",
            )


def _identity(image: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()


def _copy_findings(group: list[Sample]) -> Iterator[Finding]:
    """Report the faults of samples whose pixels are equal."""
    trained = [s for s in group if s.part == "train"]
    if trained:
        for sample in group:
            if sample.part == "test":
                message = (
                    f"same pixels as {printable(trained[0].id)}, so it leaks; remove one of them"
                )
                yield _finding("leak", sample.image, message)
    first: dict[tuple[str, str], Sample] = {}
    for sample in group:
        if sample.label != group[0].label:
            message = (
                f"same pixels as {printable(group[0].id)} under another label; remove the wrong one"
            )
            yield _finding("two-labels", sample.image, message)
        earlier = first.setdefault((sample.part, sample.label), sample)
        if earlier is not sample:
            message = f"same pixels as {printable(earlier.id)}; remove one of them"
            yield _finding("duplicate", sample.image, message)


def _shared_masks(dataset: Dataset) -> Iterator[Finding]:
    owners = Counter(mask for sample in dataset for mask in sample.masks)
    for mask, number in owners.items():
        if number > 1:
            message = f"belongs to {number} images of one name; rename the images and give each one"
            yield _finding("unpaired", mask, message)


def _grey_masks(grey: dict[Path, list[Path]]) -> Iterator[Finding]:
    """Report masks with grey edges: one line per folder, since they come in hundreds."""
    for folder, paths in grey.items():
        what = "mask with grey edges" if len(paths) == 1 else f"{len(paths)} masks with grey edges"
        message = f"{what}, cut at {MASK_THRESHOLD}; choose another level with --mask-threshold"
        yield _finding("grey-mask", paths[0] if len(paths) == 1 else folder, message)


def _strays(dataset: Dataset, orphans: Iterable[Path]) -> Iterator[Finding]:
    """Find files that are neither image nor mask; a folder of such files is reported once."""
    known = {s.image for s in dataset} | {m for s in dataset for m in s.masks} | {*orphans}
    folders = {parent for path in known for parent in path.parents}
    waiting = [dataset.root]
    while waiting:
        for entry in waiting.pop().iterdir():
            if entry in folders:
                waiting.append(entry)
            elif entry.is_dir():
                if not _is_private(entry, dataset.root) and _holds_files(entry):
                    yield _finding("stray", entry, "folder is not read; move it elsewhere")
            elif entry not in known and not _is_note(entry, dataset.root):
                yield _finding("stray", entry, "file is not read; move it elsewhere")


def _holds_files(folder: Path) -> bool:
    return any(f.is_file() for f in folder.rglob("*"))


def _is_private(entry: Path, root: Path) -> bool:
    return entry.parent == root and entry.name.startswith(".")  # for example .git


def _is_note(entry: Path, root: Path) -> bool:
    named = entry.suffix.lower() in _NOTES and not entry.name.startswith(".")
    return entry.parent == root and (named or entry.name.startswith(".git"))

"""Class folders: `good/` and `bad/` (or `OK/`, `NG/`, `Normal/`, a folder per defect type …).

They may lie below `images/` and below parts (`train`, `val`, `test`); folders named after days,
numbers or cameras may stand anywhere. Masks, if there are any, lie in `ground_truth/` or `masks/`,
in the same folders. Without part folders every image is a `test` image, which is what splits deal
out; a folder of good images alone is training data.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from toolkit.data.layouts.mvtec import dataset_of
from toolkit.data.layouts.names import PARTS, is_good, is_place, label_of, split_part, with_parts
from toolkit.data.layouts.tree import MaskTree, image_files, subfolders
from toolkit.data.types import GOOD, Dataset, Sample
from toolkit.errors import DataError, printable

NAME = "classes"
_MASKS = ("ground_truth", "masks", "mask")
_DEPTH = 3


def recognises(root: Path) -> bool:
    """Whether a folder of good images is there, perhaps below parts, days or cameras."""
    return _has_good(base_of(root), _DEPTH)


def mask_folders(root: Path) -> list[Path]:
    """Return the folders that hold masks."""
    return [root / name for name in _MASKS if (root / name).is_dir()]


def base_of(root: Path) -> Path:
    """Return the folder that the folders of images lie in: `images/`, or the root."""
    return root / "images" if (root / "images").is_dir() else root


def read(root: Path) -> Dataset:
    """Read the folder.

    Raises:
        DataError: the folder holds no image, or an image lies beside the class folders.
    """
    base = base_of(root)
    places = mask_folders(root)
    trees = [MaskTree(place) for place in places]
    samples = []
    for image in image_files(base):
        if any(image.is_relative_to(place) for place in places):
            continue
        below = image.relative_to(base)
        part, folders = split_part(below.parts[:-1])
        label = label_of(folders)
        if label is None:
            raise DataError(
                f"{printable(image)}: lies beside the class folders, so nothing says whether it is "
                "good; move it into good/ or a folder of its defect type"
            )
        masks = () if label == GOOD else _masks(trees, below)
        samples.append(
            Sample(image.relative_to(root).as_posix(), image, label, masks=masks, part=part)
        )
    return _noted(dataset_of(root, with_parts(samples), layout=NAME, expected="class folders"))


def _noted(dataset: Dataset) -> Dataset:
    """Add what was assumed; good images alone are for training."""
    names = sorted({p for s in dataset for p in Path(s.id).parts[:-1] if is_good(p)})
    notes = [f"{', '.join(names)}: taken for good images" for _ in [0] if names != [GOOD]]
    if dataset.classes:
        return replace(dataset, notes=tuple(notes))
    samples = tuple(replace(s, part="train") for s in dataset)
    return replace(dataset, samples=samples, notes=(*notes, only_good(len(samples))))


def only_good(number: int) -> str:
    """Return the note on a data set without a defect."""
    return f"no defect among the {number} images: good-only methods train, nothing is evaluated"


def _masks(trees: list[MaskTree], below: Path) -> tuple[Path, ...]:
    for tree in trees:
        if found := tree.of(below):
            return found
    return ()


def _has_good(folder: Path, depth: int) -> bool:
    for inner in subfolders(folder):
        if is_good(inner.name):
            return True
        is_passed = is_place(inner.name) or inner.name.lower() in PARTS
        if depth > 1 and is_passed and _has_good(inner, depth - 1):
            return True
    return False

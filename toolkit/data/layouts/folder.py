"""A plain folder: `images/` and `masks/` of equal stems.

Folders below `images/` may name a part (`train`, `val`, `test`) and a label, in this order; masks
lie in folders of the same names. Without a label folder, an image with a mask is `defect` and one
without is `good`. `val` counts as `train`: the split file decides what validates. Without a part
folder, every image is a `test` image, which is what splits deal out.
"""

from __future__ import annotations

from pathlib import Path

from toolkit.data.layouts.mvtec import dataset_of
from toolkit.data.layouts.tree import MaskTree, image_files
from toolkit.data.types import GOOD, Dataset, Sample

NAME = "folder"
_DEFECT = "defect"
_PARTS = {"train": "train", "val": "train", "valid": "train", "validation": "train", "test": "test"}


def recognises(root: Path) -> bool:
    """Whether the folder holds `images` and `masks`."""
    return (root / "images").is_dir() and (root / "masks").is_dir()


def mask_folders(root: Path) -> list[Path]:
    """Return the folders that hold masks."""
    return [root / "masks"]


def read(root: Path) -> Dataset:
    """Read the folder.

    Raises:
        DataError: the folder holds no image.
    """
    tree = MaskTree(root / "masks")
    samples = []
    for image in image_files(root / "images"):
        place = image.relative_to(root / "images")
        folders = list(place.parts[:-1])
        part = (
            _PARTS[folders.pop(0).lower()] if folders and folders[0].lower() in _PARTS else "test"
        )
        masks = tree.of(place)
        label = folders[0] if folders else (_DEFECT if masks else GOOD)
        samples.append(
            Sample(
                id=image.relative_to(root).as_posix(),
                image=image,
                label=label,
                masks=masks,
                part=part,
            )
        )
    return dataset_of(root, samples, layout=NAME, expected="images/")

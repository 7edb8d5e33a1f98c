"""The layout of MVTec LOCO AD: as MVTec AD, with `validation/good` and a folder of masks per image.

`ground_truth/<type>/NNN/000.png` and on. A mask's value says how much of it must be found; here any
value but 0 is defect. Validation images count as training images: no defect is among them, and
the split file decides what validates.
"""

from __future__ import annotations

from pathlib import Path

from toolkit.data.layouts.mvtec import mask_folders, read_parts
from toolkit.data.types import GOOD, Dataset

NAME = "loco"
__all__ = ["NAME", "mask_folders", "read", "recognises"]


def recognises(root: Path) -> bool:
    """Whether the folder holds `validation/good` and `test` beside `train/good`."""
    return (root / "validation" / GOOD).is_dir() and (root / "test").is_dir()


def read(root: Path) -> Dataset:
    """Read one category.

    Raises:
        DataError: the folder holds no image.
    """
    return read_parts(root, {"train": "train", "validation": "train", "test": "test"}, layout=NAME)

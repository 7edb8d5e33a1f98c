"""The layout of MVTec AD 2: `train/good`, `validation/good`, `test_public/{good,bad}`.

Masks are `test_public/ground_truth/bad/NNN_<light>_mask.png`. The private test folders have no
public labels and are left out. Validation images count as training images: no defect is among
them, and the split file decides what validates.
"""

from __future__ import annotations

from pathlib import Path

from toolkit.data.layouts.mvtec import read_parts
from toolkit.data.types import Dataset

NAME = "mvtec-ad-2"
_MASKS = "ground_truth"
_PARTS = {"train": "train", "validation": "train", "test_public": "test"}


def recognises(root: Path) -> bool:
    """Whether the folder holds `test_public`."""
    return (root / "test_public").is_dir()


def mask_folders(root: Path) -> list[Path]:
    """Return the folders that hold masks."""
    return [root / "test_public" / _MASKS]


def read(root: Path) -> Dataset:
    """Read one object.

    Raises:
        DataError: the folder holds no image.
    """
    return read_parts(root, _PARTS, layout=NAME, masks_in=_MASKS)

"""The layout of MVTec AD 2: `train/good`, `validation/good`, `test_public/{good,bad}`.

Masks are `test_public/ground_truth/bad/NNN_<light>_mask.png`. The private test folders have no
public labels and are left out. Validation images count as training images: no defect is among
them, and the split file decides what validates.
"""

from __future__ import annotations

from pathlib import Path

from toolkit.data.layouts.mvtec import dataset_of
from toolkit.data.layouts.tree import MaskTree, image_files, subfolders
from toolkit.data.types import GOOD, Dataset, Sample

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
    samples = []
    for folder_name, part in _PARTS.items():
        for folder in subfolders(root / folder_name):
            if folder.name == _MASKS:
                continue
            good = folder.name == GOOD
            masks = None if good else MaskTree(root / folder_name / _MASKS / folder.name)
            for image in image_files(folder):
                samples.append(
                    Sample(
                        id=image.relative_to(root).as_posix(),
                        image=image,
                        label=folder.name,
                        masks=masks.of(image.relative_to(folder)) if masks else (),
                        part=part,
                    )
                )
    return dataset_of(root, samples, layout=NAME, expected=", ".join(f"{p}/" for p in _PARTS))

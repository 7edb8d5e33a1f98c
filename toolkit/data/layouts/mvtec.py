"""The layout of MVTec AD: `train/good`, `test/<type>`, `ground_truth/<type>/NNN_mask.png`.

Several masks per image are `NNN_mask.png`, `NNN_mask_1.png`, … or a folder `NNN/` of masks, as
MVTec LOCO has them.
"""

from __future__ import annotations

from pathlib import Path

from toolkit.data.layouts.names import is_good
from toolkit.data.layouts.tree import MaskTree, image_files, subfolders
from toolkit.data.types import GOOD, Dataset, Sample
from toolkit.errors import DataError

NAME = "mvtec"


def recognises(root: Path) -> bool:
    """Whether the folder holds `train/good` or a `test` folder with class folders.

    Folders such as `OK` are not read as defect types: see the layout `classes`.
    """
    folders = [f.name for part in ("train", "test") for f in subfolders(root / part)]
    if any(is_good(name) and name != GOOD for name in folders):
        return False
    return (root / "train" / GOOD).is_dir() or bool(subfolders(root / "test"))


def read(root: Path) -> Dataset:
    """Read one category.

    Raises:
        DataError: the folder holds no image.
    """
    return read_parts(root, {"train": "train", "test": "test"}, layout=NAME)


def mask_folders(root: Path) -> list[Path]:
    """Return the folders that hold masks."""
    return [root / "ground_truth"]


def read_parts(
    root: Path, parts: dict[str, str], *, layout: str, masks_in: str | None = None
) -> Dataset:
    """Read class folders below several part folders.

    Args:
        root: the category.
        parts: from a part's folder to the part that its images belong to.
        layout: name of the layout.
        masks_in: the folder of each part that holds its masks, in a folder per type; if None they
            lie in `ground_truth/<type>` of the category.

    Raises:
        DataError: the folder holds no image.
    """
    samples = []
    for folder_name, part in parts.items():
        place = root / (f"{folder_name}/{masks_in}" if masks_in else "ground_truth")
        for folder in subfolders(root / folder_name):
            if folder == place:
                continue
            masks = None if folder.name == GOOD else MaskTree(place / folder.name)
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
    return dataset_of(root, samples, layout=layout, expected=", ".join(f"{p}/" for p in parts))


def dataset_of(root: Path, samples: list[Sample], *, layout: str, expected: str) -> Dataset:
    """Return the data set, named after its folder.

    Raises:
        DataError: there are no samples.
    """
    if not samples:
        raise DataError(f"{root}: no images below {expected}; check the folder")
    ordered = tuple(sorted(samples, key=lambda s: s.id))
    return Dataset(name=root.resolve().name, root=root, samples=ordered, layout=layout)

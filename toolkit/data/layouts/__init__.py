"""Layouts: how a folder on disk becomes a `Dataset`.

A layout is a module with `NAME`, `recognises(root) -> bool`, `read(root) -> Dataset` and
`mask_folders(root)`; a new one is one module and one entry of `LAYOUTS`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from toolkit.data.layouts import classes, coco, flat, folder, loco, mvtec, mvtec_ad2, visa, yolo
from toolkit.data.layouts.tree import image_files, left_over, subfolders
from toolkit.data.layouts.unknown import found_beside_expected
from toolkit.data.types import Dataset
from toolkit.errors import DataError, UnknownLayoutError, did_you_mean, printable


class Layout(Protocol):
    """What a layout module offers."""

    NAME: str

    def recognises(self, root: Path) -> bool:
        """Whether the folder looks like this layout."""

    def read(self, root: Path) -> Dataset:
        """Read the folder."""

    def mask_folders(self, root: Path) -> list[Path]:
        """Return the folders that hold masks."""


# The first one that recognises a folder reads it: the more particular ones stand first.
# Good images alone look like part of many other things, so they come last.
LAYOUTS: dict[str, Layout] = {
    m.NAME: m for m in (visa, mvtec_ad2, yolo, coco, loco, mvtec, folder, classes, flat)
}


LAYOUT_WORDS = {
    "mvtec": "train/good, test/<type>, masks in ground_truth/ (MVTec AD)",
    "mvtec-ad-2": "train/, validation/, test_public/ (MVTec AD 2)",
    "loco": "train/, validation/, test/, several masks per image (MVTec LOCO AD)",
    "visa": "Data/Images/Normal and Anomaly (VisA)",
    "yolo": "images/ and labels/, boxes or outlines (YOLO)",
    "coco": "images and JSON annotations (COCO)",
    "folder": "images/ and masks/ of equal names",
    "classes": "a folder of good images, folders of defects",
    "flat": "a folder of good images",
}
"""How each layout looks, in a few words."""


def load_dataset(
    root: Path | str, *, layout: str | None = None, mask_threshold: int | None = None
) -> Dataset:
    """Read a data set from a folder, without opening an image.

    Args:
        root: the folder, for example `mvtec/bottle`.
        layout: name of the layout; recognised from the folders if None.
        mask_threshold: mask values above it are defect; None: see `toolkit.data.images.read_mask`.

    Raises:
        DataError: the folder is missing, is no known layout, holds no image, or a name in it is
            not UTF-8.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"{printable(root)}: no such folder; give a data set with --data DIR")
    dataset = _layout_of(root, layout).read(root)
    for name in (dataset.name, *(str(path) for s in dataset for path in (s.image, *s.masks))):
        if not _is_utf8(name):  # it could not be written to any label file, split or report
            raise DataError(f"{printable(name)}: the name is not UTF-8; rename the file or folder")
    if mask_threshold is not None:
        samples = tuple(replace(s, mask_threshold=mask_threshold) for s in dataset)
        dataset = replace(dataset, samples=samples)
    return dataset


def find_datasets(root: Path) -> list[Path]:
    """Return the folders of the data sets directly below a folder, sorted.

    A folder with images that is of no known layout is among them, so that reading it names what is
    wrong; folders without images are left out.

    Args:
        root: a folder such as `mvtec`, with the categories of MVTec AD.

    Returns:
        An empty list if the folder is a data set itself, or no data set lies directly below it.
    """
    if not root.is_dir() or _recognised(root):
        return []
    inner = subfolders(root)
    if not any(_recognised(folder) not in (None, flat.NAME) for folder in inner):
        return []
    return [folder for folder in inner if _recognised(folder) or image_files(folder)]


def _layout_of(root: Path, name: str | None) -> Layout:
    if name is not None:
        if name not in LAYOUTS:
            raise DataError(f"--layout {name}: unknown{did_you_mean(name, LAYOUTS)}")
        return LAYOUTS[name]
    found = _recognised(root)
    if found is not None:
        return LAYOUTS[found]
    inner = [f for f in subfolders(root) if _recognised(f) not in (None, flat.NAME)]
    expected = "expected good/ and bad/, train/good and test/<type>, or images/ and masks/"
    hint = f"did you mean {printable(inner[0])}?" if inner else expected
    raise UnknownLayoutError(
        f"{printable(root)}: not a data set of a known layout; {hint}", found_beside_expected(root)
    )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def unpaired_masks(dataset: Dataset) -> list[Path]:
    """Return the mask files that belong to no image of the data set."""
    folders = LAYOUTS[dataset.layout].mask_folders(dataset.root)
    return left_over(folders, (mask for sample in dataset for mask in sample.masks))


def _recognised(root: Path) -> str | None:
    return next((name for name, module in LAYOUTS.items() if module.recognises(root)), None)

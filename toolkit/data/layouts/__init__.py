"""Layouts: how a folder on disk becomes a `Dataset`.

A layout is a module with `NAME`, `recognises(root) -> bool`, `read(root) -> Dataset` and
`mask_folders(root)`; a new one is one module and one entry of `LAYOUTS`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from toolkit.data.layouts import folder, loco, mvtec, mvtec_ad2, visa
from toolkit.data.layouts.tree import image_files, left_over, subfolders
from toolkit.data.types import Dataset
from toolkit.errors import DataError, did_you_mean, printable


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
LAYOUTS: dict[str, Layout] = {m.NAME: m for m in (visa, mvtec_ad2, loco, mvtec, folder)}


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
    if not any(map(_recognised, inner)):
        return []
    return [folder for folder in inner if _recognised(folder) or image_files(folder)]


def _layout_of(root: Path, name: str | None) -> Layout:
    if name is not None:
        if name not in LAYOUTS:
            raise DataError(f"--layout {name}: unknown{did_you_mean(name, LAYOUTS)}")
        return LAYOUTS[name]
    for module in LAYOUTS.values():
        if module.recognises(root):
            return module
    inner = [f.name for f in sorted(root.iterdir()) if f.is_dir() and _recognised(f)]
    expected = "; expected train/good and test/<type>, or images/ and masks/"
    hint = f"; did you mean {printable(root / inner[0])}?" if inner else expected
    raise DataError(f"{printable(root)}: not a data set of a known layout{hint}")


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


def _recognised(root: Path) -> bool:
    return any(module.recognises(root) for module in LAYOUTS.values())

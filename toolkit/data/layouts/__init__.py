"""Layouts: how a folder on disk becomes a `Dataset`.

A layout is a module with `NAME`, `recognises(root) -> bool` and `read(root) -> Dataset`; a new one
is one module and one line in `LAYOUTS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from toolkit.data.layouts import mvtec
from toolkit.data.types import Dataset
from toolkit.errors import DataError, did_you_mean


class Layout(Protocol):
    """What a layout module offers."""

    NAME: str

    def recognises(self, root: Path) -> bool:
        """Whether the folder looks like this layout."""

    def read(self, root: Path) -> Dataset:
        """Read the folder."""


LAYOUTS: dict[str, Layout] = {"mvtec": mvtec}


def read_dataset(root: Path | str, *, layout: str | None = None) -> Dataset:
    """Read a data set from a folder, without opening an image.

    Args:
        root: the folder, for example `mvtec/bottle`.
        layout: name of the layout; recognised from the folders if None.

    Raises:
        DataError: the folder is missing, is no known layout, or holds no image.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give a data set with --data DIR")
    if layout is not None:
        if layout not in LAYOUTS:
            raise DataError(f"--layout {layout}: unknown{did_you_mean(layout, LAYOUTS)}")
        return LAYOUTS[layout].read(root)
    for module in LAYOUTS.values():
        if module.recognises(root):
            return module.read(root)
    inner = [f.name for f in sorted(root.iterdir()) if f.is_dir() and mvtec.recognises(f)]
    hint = f"; did you mean {root / inner[0]}?" if inner else "; expected train/good and test/…"
    raise DataError(f"{root}: not a data set of a known layout{hint}")

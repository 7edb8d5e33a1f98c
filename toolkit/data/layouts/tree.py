"""Image files below a folder, and masks that belong to them: what all layouts share."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from toolkit.data.images import is_image_file


def image_files(folder: Path) -> list[Path]:
    """Return the image files below a folder, nested and linked folders included, sorted."""
    found: list[Path] = []
    visited: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in visited:  # a link to a folder above
            folders.clear()
            continue
        visited.add(real)
        paths = (Path(here, name) for name in files if not name.startswith("."))
        found += [path for path in paths if is_image_file(path)]
    return sorted(found)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly below, sorted, without hidden ones; none if there is none."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def image_stem(mask_stem: str) -> str:
    """Return the image's stem for a mask's: `003_mask` and `003_mask_1` give `003`."""
    head, mark, tail = mask_stem.rpartition("_mask")
    if mark and (not tail or (tail[0] == "_" and tail[1:].isdigit())):
        return head
    return mask_stem


class MaskTree:
    """The masks below a folder, by the image that they belong to.

    An image `a/003.png` owns `a/003.png`, `a/003_mask.png`, `a/003_mask_1.png`, … and every mask
    in the folder `a/003/`.
    """

    def __init__(self, folder: Path) -> None:
        self._by_image: dict[str, list[Path]] = defaultdict(list)
        self._by_folder: dict[str, list[Path]] = defaultdict(list)
        for path in image_files(folder):
            place = path.parent.relative_to(folder)
            self._by_image[(place / image_stem(path.stem)).as_posix()].append(path)
            self._by_folder[place.as_posix()].append(path)

    def of(self, image: Path) -> tuple[Path, ...]:
        """Return the masks of an image.

        Args:
            image: its path below the folder that mirrors the mask folder.
        """
        key = image.with_suffix("").as_posix()
        return tuple(self._by_image.get(key, ()) or self._by_folder.get(key, ()))


def left_over(folders: Iterable[Path], taken: Iterable[Path]) -> list[Path]:
    """Return the image files below the folders that are not among the taken ones."""
    known = set(taken)
    return [path for folder in folders for path in image_files(folder) if path not in known]

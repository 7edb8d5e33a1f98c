"""One folder of good images, perhaps in folders by day or camera, for good-only methods.

It is read so only where nothing else is in it: no folder that may name a class, no masks, no label
files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from toolkit.data.layouts.classes import base_of, only_good
from toolkit.data.layouts.mvtec import dataset_of
from toolkit.data.layouts.names import is_bad, is_place
from toolkit.data.layouts.tree import image_files, subfolders
from toolkit.data.types import GOOD, Dataset, Sample

NAME = "flat"


def recognises(root: Path) -> bool:
    """Whether the folder holds images, and no folder but those of days or cameras."""
    base = base_of(root)
    others = [f for f in subfolders(root) if f != base] if base != root else []
    if is_bad(root.resolve().name) or any(map(image_files, others)):
        return False
    images = image_files(base)
    folders = {name for image in images for name in image.relative_to(base).parts[:-1]}
    return bool(images) and all(map(is_place, folders)) and not any(map(_is_label, root.iterdir()))


def mask_folders(root: Path) -> list[Path]:
    """Return the folders that hold masks: none."""
    return []


def read(root: Path) -> Dataset:
    """Read the folder.

    Raises:
        DataError: the folder holds no image.
    """
    samples = [
        Sample(image.relative_to(root).as_posix(), image, GOOD, part="train")
        for image in image_files(base_of(root))
    ]
    dataset = dataset_of(root, samples, layout=NAME, expected=".")
    notes = ("no class folders: every image is taken for good", only_good(len(samples)))
    return replace(dataset, notes=notes)


def _is_label(entry: Path) -> bool:
    return entry.name in ("labels", "annotations", "masks", "ground_truth") or (
        entry.suffix == ".json" and not entry.name.startswith(".")
    )

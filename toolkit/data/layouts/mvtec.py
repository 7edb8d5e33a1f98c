"""The layout of MVTec AD: `train/good`, `test/<type>`, `ground_truth/<type>/NNN_mask.png`.

Several masks per image are `NNN_mask.png`, `NNN_mask_1.png`, … or a folder `NNN/` of masks.
"""

from __future__ import annotations

from pathlib import Path

from toolkit.data.images import is_image_file
from toolkit.data.types import GOOD, Dataset, Sample
from toolkit.errors import DataError

NAME = "mvtec"


def recognises(root: Path) -> bool:
    """Whether the folder holds `train/good` or a `test` folder with class folders."""
    if (root / "train" / GOOD).is_dir():
        return True
    test = root / "test"
    return test.is_dir() and any(f.is_dir() for f in test.iterdir())


def read(root: Path) -> Dataset:
    """Read one category.

    Raises:
        DataError: the folder holds no image.
    """
    samples = []
    for part in ("train", "test"):
        for folder in _class_folders(root / part):
            masks = masks_by_stem(root / "ground_truth" / folder.name)
            for image in sorted(f for f in folder.iterdir() if is_image_file(f)):
                samples.append(
                    Sample(
                        id=image.relative_to(root).as_posix(),
                        image=image,
                        label=folder.name,
                        masks=masks.get(image.stem, ()) if folder.name != GOOD else (),
                        part=part,
                    )
                )
    if not samples:
        raise DataError(f"{root}: no images below train/ or test/; check the folder")
    name = root.resolve().name
    return Dataset(name=name, root=root, samples=tuple(sorted(samples, key=lambda s: s.id)))


def masks_by_stem(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Group mask files by the stem of the image that they belong to."""
    if not folder.is_dir():
        return {}
    groups: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            groups.setdefault(entry.name, []).extend(
                sorted(f for f in entry.iterdir() if is_image_file(f))
            )
        elif is_image_file(entry):
            groups.setdefault(image_stem(entry.stem), []).append(entry)
    return {stem: tuple(files) for stem, files in groups.items()}


def image_stem(mask_stem: str) -> str:
    """Return the image's stem for a mask's: `003_mask` and `003_mask_1` give `003`."""
    head, mark, tail = mask_stem.rpartition("_mask")
    if mark and (not tail or (tail[0] == "_" and tail[1:].isdigit())):
        return head
    return mask_stem


def _class_folders(part: Path) -> list[Path]:
    return sorted(f for f in part.iterdir() if f.is_dir()) if part.is_dir() else []

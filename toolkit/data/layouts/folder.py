"""A plain folder: `images/` and `masks/` of equal stems.

Folders below `images/` may name a part (`train`, `val`, `test`) and a label, in this order; masks
lie in folders of the same names. Without a label folder, an image with a mask is `defect` and one
without is `good`. Folders name labels if one of them is named as good (`good`, `OK`, …); else a
folder does whose images all have masks, and that is not named after a day or a camera. `val` counts
as `train` (as `test` where nothing tests): the split file decides what validates. Without a part
folder, every image is a `test` image, which is what splits deal out.
"""

from __future__ import annotations

from pathlib import Path

from toolkit.data.layouts.mvtec import dataset_of
from toolkit.data.layouts.names import is_good, label_of, split_part, with_parts
from toolkit.data.layouts.tree import MaskTree, image_files
from toolkit.data.types import GOOD, Dataset, Sample

NAME = "folder"
_DEFECT = "defect"


def recognises(root: Path) -> bool:
    """Whether the folder holds `images` and `masks`."""
    return (root / "images").is_dir() and (root / "masks").is_dir()


def mask_folders(root: Path) -> list[Path]:
    """Return the folders that hold masks."""
    return [root / "masks"]


def read(root: Path) -> Dataset:
    """Read the folder.

    Raises:
        DataError: the folder holds no image.
    """
    tree = MaskTree(root / "masks")
    found = []
    for image in image_files(root / "images"):
        place = image.relative_to(root / "images")
        found.append((image, tree.of(place), *split_part(place.parts[:-1])))
    unmasked = {folders[0] for _, masks, _, folders in found if folders and not masks}
    has_good = any(is_good(name) for _, _, _, folders in found for name in folders)
    samples = []
    for image, masks, part, folders in found:
        label = label_of(folders)
        if label is None or not (has_good or folders[0] not in unmasked):
            label = _DEFECT if masks else GOOD
        samples.append(
            Sample(
                id=image.relative_to(root).as_posix(),
                image=image,
                label=label,
                masks=masks,
                part=part,
            )
        )
    return dataset_of(root, with_parts(samples), layout=NAME, expected="images/")

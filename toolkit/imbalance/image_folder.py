"""Class folders: read and resize real images, write synthetic ones with a contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.images import is_image_file, read_rgb
from toolkit.data.types import GOOD
from toolkit.errors import DataError
from toolkit.inference.plot import save_picture
from toolkit.runtime.steps import resize_square

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

CONTACT_SHEET = "contact_sheet.png"
_SHEET_COLUMNS = 12
_SHEET_TILE = 64
_SHEET_LABEL = 130
_REAL_BAND = (225, 236, 225)
_MADE_BAND = (236, 228, 220)


@dataclass(frozen=True)
class ClassImages:
    """Image files by class.

    Attributes:
        names: of the classes; `good` first where there is one.
        paths: image files.
        labels: index of each file's class.
    """

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]


def find_class_images(root: Path) -> ClassImages | None:
    """List `root/<class>/*`, or `root/train/<class>/*` where several classes train.

    Returns:
        None where the folder is not of this kind, as a category of MVTec AD, which trains on good
        images alone.
    """
    inside = root / "train" if (root / "train").is_dir() else root
    folders = {f.name: _images_in(f) for f in sorted(inside.iterdir()) if f.is_dir()}
    names = sorted((n for n, files in folders.items() if files), key=lambda n: (n != GOOD, n))
    odd = {"train", "val", "test", "images", "masks", "ground_truth"} & set(names)
    if len(names) < 2 or odd:
        return None
    pairs = [(path, index) for index, name in enumerate(names) for path in folders[name]]
    return ClassImages(tuple(names), tuple(p for p, _ in pairs), tuple(i for _, i in pairs))


def _images_in(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_file() and is_image_file(f))


def read_resized(paths: Sequence[Path], size: int) -> Tensor:
    """Decode images and resize them with `resize_square`.

    Returns:
        uint8 (n, 3, size, size), RGB.

    Raises:
        DataError: a file is no image.
    """
    import torch

    images = np.stack([resize_square(read_rgb(path), size) for path in paths])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def write_class_images(folder: Path, images: Tensor, labels: Tensor, names: Sequence[str]) -> None:
    """Write `folder/<class>/synthetic-NNNN.png`.

    Args:
        folder: the folder, created if missing.
        images: uint8 (n, C, S, S), C = 3 (RGB) or 1.
        labels: int64 (n,).
        names: of the classes.
    """
    for index, name in enumerate(names):
        own = images[labels == index]
        for number, image in enumerate(own, start=1):
            save_picture(_array(image), folder / name / f"synthetic-{number:04d}.png")


def read_class_images(folder: Path, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Read what `write_class_images` wrote: uint8 (n, 3, S, S), int64 (n,), class by class.

    Raises:
        DataError: there is no image, or they differ in size.
    """
    import torch

    pairs = [
        (read_rgb(path), index)
        for index, name in enumerate(names)
        if (folder / name).is_dir()
        for path in _images_in(folder / name)
    ]
    if len({image.shape for image, _ in pairs}) != 1:
        raise DataError(f"{folder}: no images, or of several sizes; delete the folder and repeat")
    images = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2)
    return images.contiguous(), torch.tensor([index for _, index in pairs])


def write_contact_sheet(
    path: Path,
    real: tuple[Tensor, Tensor],
    made: tuple[Tensor, Tensor],
    names: Sequence[str],
) -> None:
    """Write a picture with one row of real and one of synthetic images per class.

    Args:
        path: PNG file.
        real: images uint8 (n, C, S, S) and labels int64 (n,).
        made: the synthetic ones, of the same form.
        names: of the classes.
    """
    rows = []
    for index, name in enumerate(names):
        for (images, labels), what, band in (
            (real, "real", _REAL_BAND),
            (made, "synthetic", _MADE_BAND),
        ):
            own = images[labels == index][:_SHEET_COLUMNS]
            if len(own):
                rows.append(_row([_array(one) for one in own], (name, what), band))
    save_picture(np.concatenate(rows), path)


def _row(
    images: list[NDArray[np.uint8]], words: tuple[str, str], band: tuple[int, int, int]
) -> NDArray[np.uint8]:
    import cv2

    tile = _SHEET_TILE
    width = _SHEET_LABEL + _SHEET_COLUMNS * (tile + 2)
    row = np.full((tile + 2, width, 3), band, np.uint8)
    for number, word in enumerate(words):
        place = (4, 26 + 20 * number)
        cv2.putText(row, word, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    for column, image in enumerate(images):
        x = _SHEET_LABEL + column * (tile + 2)
        method = cv2.INTER_AREA if image.shape[0] > tile else cv2.INTER_NEAREST
        row[1 : tile + 1, x : x + tile] = cv2.resize(image, (tile, tile), interpolation=method)
    return row


def _array(image: Tensor) -> NDArray[np.uint8]:
    """Turn uint8 (C, S, S) into an RGB array (S, S, 3)."""
    array = image.permute(1, 2, 0).numpy()
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array)

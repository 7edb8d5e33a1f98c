"""Resized images on disk, so that no training decodes an image twice at full size.

One file per image content and size, shared between runs and processes. A file that was cut short
is made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.images import image_size, read_rgb
from toolkit.data.types import Dataset, Sample
from toolkit.errors import DataError
from toolkit.files import atomic_write
from toolkit.home import cache_dir
from toolkit.progress import track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

# Part of the path: change it when `resized` changes, and old files are no longer found.
_RECIPE = "square-area-1"
_GREY_CHANNELS = 2  # grey, or grey and alpha


def resized(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize to a square, averaging over areas (the aspect ratio is not kept).

    Args:
        image: uint8 array (H, W, 3).
        size: side of the square in pixels.

    Returns:
        uint8 array (size, size, 3).
    """
    import cv2

    shrinks = size <= min(image.shape[:2])
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), dtype=np.uint8)


def check_channels(samples: Sequence[Sample], *, grey: str) -> str:
    """See to it that all images are grey or all are in colour, by their headers.

    Networks take three channels. One channel is repeated for them; but where only some images are
    grey, that alone could tell classes apart.

    Args:
        samples: all images of the split.
        grey: `repeat` or `refuse`.

    Returns:
        A line that says what is done with grey images; empty where all are in colour.

    Raises:
        DataError: some images are grey and some are not, or grey ones are refused.
    """
    greys = [sample for sample in samples if image_size(sample.image)[2] <= _GREY_CHANNELS]
    if not greys:
        return ""
    first = greys[0].image
    if len(greys) < len(samples):
        raise DataError(
            f"{first}: grey, but {len(samples) - len(greys)} of {len(samples)} images are in "
            "colour; convert all to one kind"
        )
    if grey == "refuse":
        raise DataError(
            f"{first}: grey, but the network takes RGB; convert the images, or --grey repeat"
        )
    return f"{len(greys)} grey images (such as {first}): their channel is repeated for RGB"


def load_resized(samples: Sequence[Sample], dataset: Dataset, *, size: int) -> Tensor:
    """Return all images, resized; from the cache where it has them.

    Args:
        samples: of the data set.
        dataset: knows the hash of each image file, which is the key.
        size: side in pixels.

    Returns:
        uint8 tensor (n, 3, size, size), RGB.

    Raises:
        DataError: an image that is not in the cache cannot be read.
        OutputError: the cache cannot be written.
    """
    import torch

    folder = cache_dir() / "resized" / _RECIPE / str(size)
    images = np.empty((len(samples), size, size, 3), np.uint8)
    for index, sample in enumerate(track(samples, f"reading at {size} px")):
        images[index] = _cached(folder / f"{dataset.content[sample.id]}.npy", sample, size)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _cached(path: Path, sample: Sample, size: int) -> NDArray[np.uint8]:
    found = _read(path, size)
    if found is None:
        found = resized(read_rgb(sample.image), size)
        with atomic_write(path) as temporary:
            np.save(temporary, found)
    return found


def _read(path: Path, size: int) -> NDArray[np.uint8] | None:
    """Return a cached image; None where there is none, or a damaged one."""
    try:
        image = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(image, np.ndarray):
        return None
    fits = image.shape == (size, size, 3) and image.dtype == np.uint8
    return image if fits else None

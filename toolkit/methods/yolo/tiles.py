"""Crops around small defects of large images, to train detectors on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.regions import regions_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_VISIBLE = 0.4
"""A crop that shows a smaller share of a defect is not trained on: it is neither good nor not."""


def crops_with_defects(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], side: int, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield a crop around each defect, at a random place that shows it whole where it fits.

    Args:
        image: uint8 array (H, W, 3).
        mask: bool array (H, W) of its defects.
        side: of a crop in pixels; an image that is smaller is taken whole.
        rng: source of randomness.

    Yields:
        The crop and its part of the mask, without crops that show less than `MIN_VISIBLE` of
        some defect in them.
    """
    height, width = mask.shape
    regions = regions_of(mask)
    for region in regions:
        x0, y0, x1, y1 = region.box_xyxy
        x, y = _start(x0, x1, width, side, rng), _start(y0, y1, height, side, rng)
        window = slice(y, y + side), slice(x, x + side)
        shown = [int(one.mask((width, height))[window].sum()) / one.area for one in regions]
        if all(share == 0 or share >= MIN_VISIBLE for share in shown):
            yield image[window], mask[window]


def _start(low: int, high: int, length: int, side: int, rng: np.random.Generator) -> int:
    first, last = sorted((high - side, low))
    first, last = np.clip((first, last), 0, max(0, length - side))
    return int(rng.integers(first, last + 1))


def random_crop(image: NDArray[np.uint8], side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a crop (side, side, 3) of an image, or the image where it is smaller."""
    y, x = (int(rng.integers(0, max(0, length - side) + 1)) for length in image.shape[:2])
    return image[y : y + side, x : x + side]

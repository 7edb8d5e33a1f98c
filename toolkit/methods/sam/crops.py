"""Crops: square parts of an image around a place, which SAM then sees at its full resolution.

SAM's masks have 256 x 256 pixels for the whole image, however small the region. In a crop around
it, every region is of medium size.
"""

from __future__ import annotations

import math

import numpy as np

Box = tuple[float, float, float, float]
Crop = tuple[int, int, int, int]
"""Half-open square (x0, y0, x1, y1) in pixels of the image, wholly inside it."""

_MIN_SIDE = 64
"""Side in pixels below which a crop is only blur."""
_MAX_SHARE = 0.85
"""Share of the image's shorter side above which a crop adds nothing to the image."""
_STEP = 1.2
_RASTER = 8
"""Sides are powers of the step and positions lie on a raster of a share of the side, so that nearly
equal boxes have the same crop, and its embedding is computed once."""
_SPREAD = 1.6
"""Random crops are smaller or larger by up to this factor."""
_MARGIN = 1.15
"""Least side of a random crop in longest sides of the box."""


def crop_around(box_xyxy: Box, size_wh: tuple[int, int], crop_scale: float) -> Crop | None:
    """Return the crop around a box; it holds the box's part of the image.

    Args:
        box_xyxy: half-open box.
        size_wh: width and height of the image.
        crop_scale: least side of the crop in longest sides of the box, 1 or more; 0 for no crop.

    Returns:
        None where the crop would fill most of the image.
    """
    if crop_scale <= 0:
        return None
    wanted = max(crop_scale, 1.0) * max(box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1])
    # One pixel more, so that a box between two pixels fits too.
    steps = math.ceil(round(math.log((wanted + 1) / _MIN_SIDE, _STEP), 6))
    side = math.ceil(_MIN_SIDE * _STEP ** max(steps, 0))
    if side > _MAX_SHARE * min(size_wh):
        return None
    return _placed(box_xyxy, (0.0, 0.0), side, size_wh, raster=max(side // _RASTER, 1))


def random_crop(
    box_xyxy: Box, size_wh: tuple[int, int], crop_scale: float, rng: np.random.Generator
) -> Crop | None:
    """Return a crop of random size and position that holds the box; None as in `crop_around`."""
    x0, y0, x1, y1 = box_xyxy
    longest = max(x1 - x0, y1 - y0)
    most = _MAX_SHARE * min(size_wh)
    factor = max(crop_scale, 1.0) * _SPREAD ** rng.uniform(-1, 1)
    offset = (rng.uniform(-1, 1), rng.uniform(-1, 1))
    side = math.ceil(max(min(factor * longest, most), _MARGIN * longest, _MIN_SIDE))
    if crop_scale <= 0 or side > most:
        return None
    return _placed(box_xyxy, offset, side, size_wh, raster=1)


def shared_crop(
    box_xyxy: Box, size_wh: tuple[int, int], crop_scale: float, crops: list[Crop], limit: int
) -> Crop | None:
    """Return a crop for a box, preferably one of those that an image has already.

    An existing crop serves a box that lies inside it if it is at most twice as large as the box's
    own crop. A new one is added to `crops`.

    Returns:
        None where there is none that serves, and no new one is possible or allowed.
    """
    own = crop_around(box_xyxy, size_wh, crop_scale)
    if own is None:
        return None
    x0, y0, x1, y1 = box_xyxy
    for crop in crops:
        inside = crop[0] <= x0 and crop[1] <= y0 and x1 <= crop[2] and y1 <= crop[3]
        if inside and crop[2] - crop[0] <= 2 * (own[2] - own[0]):
            return crop
    if len(crops) == limit:
        return None
    crops.append(own)
    return own


def _placed(
    box_xyxy: Box, offset: tuple[float, float], side: int, size_wh: tuple[int, int], *, raster: int
) -> Crop:
    """Place a crop about a box, moved from its middle by shares of the free room."""
    corner = []
    for axis in (0, 1):
        length = size_wh[axis]
        low, high = max(box_xyxy[axis], 0.0), min(box_xyxy[axis + 2], float(length))
        free = max(side - (high - low), 0.0) / 2
        wanted = (low + high - side) / 2 + offset[axis] * free
        start = round(wanted / raster) * raster
        start = min(max(start, math.ceil(high) - side), math.floor(low))
        corner.append(min(max(start, 0), length - side))
    left, top = corner
    return left, top, left + side, top + side

"""Windows: a square part of an image around a place, which SAM then sees at its full resolution.

SAM's masks have 256 x 256 pixels for the whole image, however small the region. In a window around
it, every region is of middling size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Window = tuple[int, int, int, int]
"""Half-open square (x0, y0, x1, y1) in pixels of the image, wholly inside it."""

_LEAST = 64
"""Side in pixels below which a window shows nothing but blur."""
_MOST = 0.85
"""Share of the image's shorter side above which a window shows no more than the image does."""
_STEP = 1.2
_RASTER = 8
"""Sides are powers of the step and places lie on a raster of a share of the side, so that nearly
equal boxes have the same window, and its embedding is computed once."""
_SPREAD = 1.6
"""Random windows are up to this factor closer or wider."""
_MARGIN = 1.15
"""Of random windows about the longest side of the box."""


def window_around(
    box_xyxy: tuple[float, float, float, float], size_wh: tuple[int, int], zoom: float
) -> Window | None:
    """Return the window around a box; it holds the box's part of the image.

    Args:
        box_xyxy: half-open box.
        size_wh: width and height of the image.
        zoom: least side of the window in longest sides of the box, 1 or more; 0 for no window.

    Returns:
        None where the whole image serves as well, because the window would fill most of it.
    """
    if zoom <= 0:
        return None
    wanted = max(zoom, 1.0) * max(box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1])
    # One pixel more, so that a box between two pixels fits too.
    steps = math.ceil(round(math.log((wanted + 1) / _LEAST, _STEP), 6))
    side = math.ceil(_LEAST * _STEP ** max(steps, 0))
    if side > _MOST * min(size_wh):
        return None
    return _placed(box_xyxy, (0.0, 0.0), side, size_wh, raster=max(side // _RASTER, 1))


def random_window(
    box_xyxy: tuple[float, float, float, float],
    size_wh: tuple[int, int],
    zoom: float,
    rng: np.random.Generator,
) -> Window | None:
    """Return a window of random size and place that holds the box; None as in `window_around`."""
    x0, y0, x1, y1 = box_xyxy
    longest = max(x1 - x0, y1 - y0)
    most = _MOST * min(size_wh)
    factor = max(zoom, 1.0) * _SPREAD ** rng.uniform(-1, 1)
    away = (rng.uniform(-1, 1), rng.uniform(-1, 1))
    side = math.ceil(max(min(factor * longest, most), _MARGIN * longest, _LEAST))
    if zoom <= 0 or side > most:
        return None
    return _placed(box_xyxy, away, side, size_wh, raster=1)


def cut(array: NDArray[Any], window: Window | None) -> NDArray[Any]:
    """Return the window's part of an array (H, W, ...); all of it without a window."""
    if window is None:
        return array
    x0, y0, x1, y1 = window
    return array[y0:y1, x0:x1]


def _placed(
    box_xyxy: tuple[float, float, float, float],
    away: tuple[float, float],
    side: int,
    size_wh: tuple[int, int],
    *,
    raster: int,
) -> Window:
    """Place a window about a box, moved from its middle by shares of the free room."""
    corner = []
    for axis in (0, 1):
        length = size_wh[axis]
        low, high = max(box_xyxy[axis], 0.0), min(box_xyxy[axis + 2], float(length))
        free = max(side - (high - low), 0.0) / 2
        wanted = (low + high - side) / 2 + away[axis] * free
        start = round(wanted / raster) * raster
        start = min(max(start, math.ceil(high) - side), math.floor(low))
        corner.append(min(max(start, 0), length - side))
    left, top = corner
    return left, top, left + side, top + side

"""Geometry of boxes: half-open pixel intervals `x0, y0, x1, y1`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_JITTER_LIMIT = 20.0
"""Largest shift of a side in pixels (Kirillov et al., "Segment Anything", 2023, appendix A)."""


def box_iou(
    boxes_xyxy: NDArray[np.floating], others_xyxy: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the intersection over union of every box with every other one.

    Example:
        >>> others = np.array([[1, 0, 3, 2], [5, 5, 6, 6]])
        >>> box_iou(np.array([[0, 0, 2, 2]]), others).round(3).tolist()
        [[0.333, 0.0]]

    Args:
        boxes_xyxy: array (n, 4).
        others_xyxy: array (m, 4).

    Returns:
        float64 array (n, m); 0 where both boxes are empty.
    """
    one = np.asarray(boxes_xyxy, np.float64).reshape(-1, 1, 4)
    other = np.asarray(others_xyxy, np.float64).reshape(1, -1, 4)
    low = np.maximum(one[..., :2], other[..., :2])
    high = np.minimum(one[..., 2:], other[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = (one[..., 2:] - one[..., :2]).prod(axis=-1) + (other[..., 2:] - other[..., :2]).prod(
        axis=-1
    )
    iou: NDArray[np.float64] = shared / np.maximum(areas - shared, 1e-12)
    return iou


def jitter_box(
    box_xyxy: tuple[float, float, float, float],
    size_wh: tuple[int, int],
    rng: np.random.Generator,
    *,
    share: float = 0.1,
) -> tuple[float, float, float, float]:
    """Move each side of a box by noise, as a hand-drawn prompt would.

    The standard deviation is `share` of the box's side, the noise at most 20 pixels (Kirillov et
    al., "Segment Anything", 2023, appendix A). The result stays in the image and is at least one
    pixel wide and high.

    Args:
        box_xyxy: half-open pixels.
        size_wh: width and height of the image.
        rng: source of randomness.
        share: standard deviation as a share of the side.
    """
    x0, y0, x1, y1 = box_xyxy
    sides = np.array([x1 - x0, y1 - y0] * 2, float)
    noise = np.clip(rng.normal(size=4) * sides * share, -_JITTER_LIMIT, _JITTER_LIMIT)
    width, height = size_wh
    left = float(np.clip(x0 + noise[0], 0, width - 1))
    top = float(np.clip(y0 + noise[1], 0, height - 1))
    right = float(np.clip(x1 + noise[2], left + 1, width))
    bottom = float(np.clip(y1 + noise[3], top + 1, height))
    return left, top, right, bottom

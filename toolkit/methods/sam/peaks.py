"""Peaks of a anomaly map: where a person would click, told by a good-only method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEIGHBOURHOOD = 0.05
_LOWEST_SHARE = 0.5


def peaks(
    anomaly_map: NDArray[np.float32], size_wh: tuple[int, int], *, limit: int
) -> list[tuple[float, float, float]]:
    """Return the highest local maxima of a anomaly map, highest first.

    A peak is the maximum of its neighbourhood (5 % of the longer side each way) and reaches at
    least half the map's range.

    Args:
        anomaly_map: float32 array (h, w) that covers the whole image.
        size_wh: width and height of the image in pixels.
        limit: at most this many.

    Returns:
        x and y in image pixels, and the map's value there.
    """
    import cv2

    height, width = anomaly_map.shape
    radius = max(1, round(max(height, width) * _NEIGHBOURHOOD))
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    tops = (anomaly_map >= cv2.dilate(anomaly_map, kernel)) & (
        anomaly_map >= low + _LOWEST_SHARE * (high - low)
    )
    ys, xs = np.nonzero(tops)
    order = np.argsort(-anomaly_map[ys, xs], kind="stable")
    chosen: list[tuple[float, float, float]] = []
    for index in order:
        x, y = float(xs[index]), float(ys[index])
        if all(max(abs(x - a), abs(y - b)) > radius for a, b, _ in chosen):
            chosen.append((x, y, float(anomaly_map[ys[index], xs[index]])))
        if len(chosen) == limit:
            break
    return [
        ((x + 0.5) * size_wh[0] / width - 0.5, (y + 0.5) * size_wh[1] / height - 0.5, value)
        for x, y, value in chosen
    ]

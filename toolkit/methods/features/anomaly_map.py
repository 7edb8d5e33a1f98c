"""Anomaly maps: resampling, smoothing, and from a map to one score of the image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_TRUNCATE = 4.0  # standard deviations, as scipy's gaussian_filter, which the papers' codes use


def resample(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resample maps bilinearly to another grid over the same field; edges are repeated.

    Args:
        maps: float tensor (B, C, h, w).
        size_hw: rows and columns wanted.

    Returns:
        float tensor (B, C, *size_hw).
    """
    from torch.nn.functional import interpolate

    return interpolate(maps, size=size_hw, mode="bilinear", align_corners=False)


def to_image_grid(cells: NDArray[np.float32], size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Spread the scores of a patch grid bilinearly over the pixels of the resized image.

    Args:
        cells: float32 array (h, w).
        size_wh: columns and rows wanted.

    Returns:
        float32 array (rows, columns).
    """
    import cv2

    spread: NDArray[np.float32] = cv2.resize(cells, size_wh, interpolation=cv2.INTER_LINEAR)
    return spread


def smooth(anomaly_map: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Smooth a map with a Gaussian; edges are mirrored.

    Args:
        anomaly_map: float32 array (h, w).
        sigma: standard deviation in pixels; 0 returns the map as it is.

    Returns:
        float32 array (h, w).
    """
    import cv2

    if sigma <= 0:
        return anomaly_map
    kernel = gaussian(sigma)
    smoothed: NDArray[np.float32] = cv2.sepFilter2D(
        anomaly_map, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101
    )
    return smoothed


def gaussian(sigma: float) -> NDArray[np.float32]:
    """Return the kernel of `smooth` along one axis, float32 (n,), n odd; (1,) for a sigma of 0."""
    import cv2

    if sigma <= 0:
        return np.ones(1, np.float32)
    side = 2 * math.floor(_TRUNCATE * sigma + 0.5) + 1
    return np.asarray(cv2.getGaussianKernel(side, sigma, cv2.CV_32F), np.float32)[:, 0]


def image_score(anomaly_map: NDArray[np.float32], how: Literal["max", "top_1_percent"]) -> float:
    """Return one score of the image from its map.

    Args:
        anomaly_map: float32 array (h, w).
        how: `max`, or `top_1_percent`: the mean of the highest one per cent of the map, which one
            noisy pixel cannot move.
    """
    if how == "max":
        return float(anomaly_map.max())
    values = anomaly_map.ravel()
    count = max(1, round(0.01 * values.size))
    return float(np.partition(values, -count)[-count:].mean())

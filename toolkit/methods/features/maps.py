"""Score maps: resampling, smoothing, and from a map to one score of the image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
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


def smooth(score_map: Tensor, sigma: float) -> Tensor:
    """Smooth a map with a Gaussian; edges are mirrored.

    Args:
        score_map: float tensor (h, w).
        sigma: standard deviation in pixels; 0 returns the map as it is.

    Returns:
        float tensor (h, w).
    """
    import torch
    from torch.nn.functional import conv2d, pad

    if sigma <= 0:
        return score_map
    radius = min(math.floor(_TRUNCATE * sigma + 0.5), min(score_map.shape) - 1)
    at = torch.arange(-radius, radius + 1, dtype=score_map.dtype, device=score_map.device)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel /= kernel.sum()
    padded = pad(score_map[None, None], (radius, radius, radius, radius), mode="reflect")
    rows = conv2d(padded, kernel.view(1, 1, 1, -1))
    return conv2d(rows, kernel.view(1, 1, -1, 1))[0, 0]


def image_score(score_map: Tensor, how: Literal["max", "top1"]) -> float:
    """Return one score of the image from its map.

    Args:
        score_map: float tensor (h, w).
        how: `max`, or `top1`: the mean of the highest one per cent of the map, which one noisy
            pixel cannot move.
    """
    values = score_map.flatten()
    if how == "max":
        return float(values.max())
    return float(values.topk(max(1, round(0.01 * values.numel()))).values.mean())

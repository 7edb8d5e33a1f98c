"""Resampling of feature and anomaly maps in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def resample(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resample maps bilinearly to another grid over the same field; edges are repeated.

    A grid of the same size leaves them as they are.

    Args:
        maps: float tensor (B, C, h, w).
        size_hw: rows and columns wanted.

    Returns:
        float tensor (B, C, *size_hw).
    """
    from torch.nn.functional import interpolate

    if tuple(maps.shape[2:]) == tuple(size_hw):
        return maps
    return interpolate(maps, size=size_hw, mode="bilinear", align_corners=False)

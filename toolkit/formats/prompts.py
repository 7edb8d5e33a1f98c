"""Prompts for a promptable segmenter, drawn from a region: points inside, points around, a box."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.regions import Box, Region

_AROUND_SHARE, _AROUND_LEAST = 0.25, 8
_JITTER_MOST = 20.0  # pixels, as in the paper

Points = list[list[int]]


def positive_points(region: Region, count: int, rng: np.random.Generator) -> Points:
    """Draw pixels of the region: the one farthest from its border, then uniformly.

    Returns:
        `count` pixels as [x, y], fewer if the region has fewer; each at most once.
    """
    import cv2

    padded = np.pad(region.crop, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    inside = np.flatnonzero(region.crop)
    middle = int(depth.argmax())
    others = inside[inside != middle]
    drawn = rng.choice(others, size=min(count - 1, len(others)), replace=False)
    ys, xs = np.divmod(np.concatenate([[middle], drawn]), region.crop.shape[1])
    x0, y0, _, _ = region.box_xyxy
    return np.column_stack([xs + x0, ys + y0]).astype(int).tolist()  # type: ignore[no-any-return]


def negative_points(
    region: Region, defect: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> Points:
    """Draw pixels around the region that belong to no region at all.

    They lie in the box grown by a quarter of its sides (at least 8 pixels), or anywhere in the
    image if that is all defect.

    Args:
        region: the region.
        defect: bool array (H, W), all regions of the image.
        count: how many points.
        rng: source of randomness.

    Returns:
        `count` pixels as [x, y], fewer if there are fewer.
    """
    height, width = defect.shape
    x0, y0, x1, y1 = region.box_xyxy
    across = max(_AROUND_LEAST, round((x1 - x0) * _AROUND_SHARE))
    down = max(_AROUND_LEAST, round((y1 - y0) * _AROUND_SHARE))
    left, top = max(0, x0 - across), max(0, y0 - down)
    around = defect[top : min(height, y1 + down), left : min(width, x1 + across)]
    free = np.argwhere(~around) + np.array([top, left])
    if not len(free):
        free = np.argwhere(~defect)
    drawn = free[rng.choice(len(free), size=min(count, len(free)), replace=False)]
    return drawn[:, ::-1].tolist()  # type: ignore[no-any-return]


def jittered_box(
    box_xyxy: Box, size_wh: tuple[int, int], *, share: float, rng: np.random.Generator
) -> list[float]:
    """Move each side of a box by noise, as a hand-drawn prompt would.

    The standard deviation is `share` of the side, the noise at most 20 pixels (Kirillov et al.
    2023, appendix A). The box stays inside the image and at least a pixel wide and high.
    """
    jittered = list(map(float, box_xyxy))
    for axis in (0, 1):
        low, high = box_xyxy[axis], box_xyxy[axis + 2]
        noise = np.clip(rng.normal(0.0, share * (high - low), 2), -_JITTER_MOST, _JITTER_MOST)
        start = min(max(low + float(noise[0]), 0.0), size_wh[axis] - 1.0)
        stop = max(min(high + float(noise[1]), float(size_wh[axis])), start + 1.0)
        jittered[axis], jittered[axis + 2] = round(start, 2), round(stop, 2)
    return jittered

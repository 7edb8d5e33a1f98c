"""Regions and the per-region overlap (PRO).

Source: Bergmann, Batzner, Fauser, Sattlegger, Steger, "The MVTec Anomaly Detection Dataset",
IJCV 2021, section 5, as their evaluation script computes it: regions are 8-connected components of
the masks, the false-positive rate goes over the anomaly-free pixels of all images, good ones
included, the overlap is averaged over regions, and the area under the curve is cut off at a limit,
with the end point interpolated, and divided by that limit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Find the 8-connected regions of a mask.

    Args:
        mask: bool[H, W].

    Returns:
        The flat indices of the mask's pixels, int[d], and the region of each, int[d] from 0.
    """
    import cv2

    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.int64)
    columns = np.flatnonzero(mask.any(axis=0))
    top, left = rows[0], columns[0]
    # Only the part that holds regions is labelled: they cover a few percent of an image.
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    _, labels = cv2.connectedComponents(part, connectivity=8, ltype=cv2.CV_32S)
    y, x = np.nonzero(part)
    return (y + top) * mask.shape[1] + x + left, labels[y, x].astype(np.int64) - 1


def gain_per_pixel(
    *,
    above: NDArray[np.integer[Any]],
    at_or_above: NDArray[np.integer[Any]],
    n_good: int,
    limit: float,
) -> NDArray[np.float64]:
    """Return what a defect pixel of each distinct score adds to the area of its region's curve.

    Between two neighbouring scores of defect pixels the overlap does not change, so the PRO curve
    is flat there however many good pixels lie between them; where good pixels tie with a defect
    score, a slope joins the points just above it and at it. The overlap of a region is thus the
    mean of its pixels' own curves: 0 until the pixel is flagged, 1 from then on. So the area under
    a region's curve is the mean of this over its pixels, and AUPRO the mean of that over regions.

    Args:
        above: int[m], good pixels that score above each distinct defect score.
        at_or_above: int[m], good pixels that score at or above it.
        n_good: number of good pixels, at least 1.
        limit: false-positive rate up to which to integrate, in (0, 1].

    Returns:
        float64[m], 0 to 1: the area divided by the limit.
    """
    end = limit * n_good
    start, stop = above.astype(np.float64), at_or_above.astype(np.float64)
    # A slope that the limit cuts is a triangle.
    cut = (stop > end) & (start < end)
    area = np.maximum(end - (start + stop) / 2, 0.0)
    area[cut] = (end - start[cut]) ** 2 / (2 * (stop[cut] - start[cut]))
    area[start >= end] = 0.0
    return np.asarray(area / end)

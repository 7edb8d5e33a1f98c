"""Masks: intersection over union, Dice and boundary IoU of a predicted and a true mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.metrics.values import MetricError, Undefined, Value, mean_of

BOTH_EMPTY = Undefined("both masks are empty")
BOUNDARY_RATIO = 0.02
"""Width of the boundary band as a share of the image diagonal (Cheng et al. 2021)."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskMetrics:
    """Means over pairs of masks; a pair of two empty masks has no value and is left out.

    Attributes:
        n_pairs: number of pairs.
        n_empty: pairs left out, because both masks are empty.
        iou, dice, boundary_iou: means over the other pairs.
    """

    n_pairs: int
    n_empty: int
    iou: Value
    dice: Value
    boundary_iou: Value


def mask_iou(predicted: Mask, truth: Mask) -> Value:
    """Return |P ∩ T| / |P ∪ T| of two bool[H, W] masks.

    Raises:
        MetricError: they are not boolean arrays of one shape.
    """
    _check(predicted, truth)
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else BOTH_EMPTY


def mask_dice(predicted: Mask, truth: Mask) -> Value:
    """Return 2 |P ∩ T| / (|P| + |T|) of two bool[H, W] masks.

    Raises:
        MetricError: they are not boolean arrays of one shape.
    """
    _check(predicted, truth)
    total = np.count_nonzero(predicted) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(predicted & truth) / total if total else BOTH_EMPTY


def boundary_iou(predicted: Mask, truth: Mask, *, ratio: float = BOUNDARY_RATIO) -> Value:
    """Return the IoU of the two inner boundary bands.

    Source: Cheng, Girshick, Dollár, Berg, Kirillov, "Boundary IoU", CVPR 2021, equation 2, with
    their defaults: a band of `ratio` of the image diagonal, rounded to whole pixels (at least 1),
    distances by the 8-neighbourhood, and the image border counted as boundary.

    Args:
        predicted: bool[H, W].
        truth: bool[H, W].
        ratio: width of the band as a share of the image diagonal.

    Raises:
        MetricError: the masks are not boolean arrays of one shape.
    """
    _check(predicted, truth)
    return mask_iou(boundary_band(predicted, ratio=ratio), boundary_band(truth, ratio=ratio))


def boundary_band(mask: Mask, *, ratio: float = BOUNDARY_RATIO) -> Mask:
    """Return the pixels of a bool[H, W] mask that lie within the band along its contour."""
    import cv2

    width = max(1, round(ratio * math.hypot(*mask.shape)))
    kernel = np.ones((3, 3), dtype=np.uint8)
    # Outside the image nothing belongs to the mask, so a region cut by the border has its boundary
    # there.
    inner = cv2.erode(
        mask.astype(np.uint8),
        kernel,
        iterations=width,
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return np.asarray(mask & (inner == 0))


@dataclass(frozen=True)
class MaskValues:
    """One pair of masks."""

    iou: Value
    dice: Value
    boundary_iou: Value


def mask_values(predicted: Mask, truth: Mask) -> MaskValues:
    """Return IoU, Dice and boundary IoU of two bool[H, W] masks.

    Raises:
        MetricError: they are not boolean arrays of one shape.
    """
    return MaskValues(
        iou=mask_iou(predicted, truth),
        dice=mask_dice(predicted, truth),
        boundary_iou=boundary_iou(predicted, truth),
    )


def mean_of_masks(values: Sequence[MaskValues]) -> MaskMetrics:
    """Average the values of several pairs, each counted once."""
    reason = BOTH_EMPTY.reason if values else "no masks"
    return MaskMetrics(
        n_pairs=len(values),
        n_empty=sum(isinstance(one.iou, Undefined) for one in values),
        iou=mean_of([one.iou for one in values], reason=reason),
        dice=mean_of([one.dice for one in values], reason=reason),
        boundary_iou=mean_of([one.boundary_iou for one in values], reason=reason),
    )


def _check(predicted: Mask, truth: Mask) -> None:
    if predicted.dtype != np.bool_ or truth.dtype != np.bool_:
        raise MetricError(
            f"masks of type {predicted.dtype} and {truth.dtype}: threshold them to boolean first"
        )
    if predicted.shape != truth.shape or predicted.ndim != 2:
        raise MetricError(
            f"predicted mask {predicted.shape} against true mask {truth.shape}: "
            "bring both to the size of the image"
        )

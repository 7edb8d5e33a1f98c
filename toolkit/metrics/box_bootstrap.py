"""mAP50 on bootstrap resamples, for its confidence interval.

Matching boxes to the truth is independent between images; only the ranking spans them. So boxes
are matched once, and each resample weighs them by how often their image was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.boxes import box_iou
from toolkit.metrics.boxes import PredictedBoxes, TrueBoxes

IOU = 0.5
MOST_PER_IMAGE = 100
_RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision
_AT_ONCE = 100  # resamples, which bounds the memory


@dataclass(frozen=True)
class Detections:
    """All predicted boxes of a set of images, matched.

    Attributes:
        image: int[n], index of the image of each box.
        label: int[n], index of its class.
        scores: float64[n].
        hit: bool[n], whether it matches a true box of its class.
        n_true: int[images, K], true boxes of each image and class.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    scores: NDArray[np.float64]
    hit: NDArray[np.bool_]
    n_true: NDArray[np.int64]


def match_boxes(
    truth: Sequence[TrueBoxes], predicted: Sequence[PredictedBoxes], *, n_classes: int
) -> Detections:
    """Match boxes as COCO does, at an IoU of 0.5 or more.

    Within an image and class, boxes are matched in the order of their scores, each to the true box
    with the highest IoU that is still free; the 100 best boxes count.

    Args:
        truth: one entry per image.
        predicted: one entry per image, in the same order.
        n_classes: number of classes.
    """
    images, labels, scores, hits = [], [], [], []
    n_true = np.zeros((len(truth), n_classes), np.int64)
    for i, (true, predictions) in enumerate(zip(truth, predicted, strict=True)):
        for k in range(n_classes):
            there = np.asarray(true.boxes_xyxy, np.float64).reshape(-1, 4)[true.labels == k]
            n_true[i, k] = len(there)
            own = np.flatnonzero(predictions.labels == k)
            own = own[np.argsort(-predictions.scores[own], kind="stable")][:MOST_PER_IMAGE]
            boxes = np.asarray(predictions.boxes_xyxy, np.float64).reshape(-1, 4)[own]
            images.append(np.full(len(own), i))
            labels.append(np.full(len(own), k))
            scores.append(np.asarray(predictions.scores, np.float64)[own])
            hits.append(_hits(boxes, there))
    return Detections(
        image=np.concatenate([*images, np.zeros(0)]).astype(np.int64),
        label=np.concatenate([*labels, np.zeros(0)]).astype(np.int64),
        scores=np.concatenate([*scores, np.zeros(0)]),
        hit=np.concatenate([*hits, np.zeros(0, np.bool_)]).astype(np.bool_),
        n_true=n_true,
    )


def map50_resamples(
    detections: Detections, counts: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Return mAP50 on each resample, float64[resamples]; None without any true box.

    Args:
        detections: matched boxes.
        counts: int64[resamples, images] of `resample_counts`.
    """
    classes: list[int] = np.flatnonzero(detections.n_true.sum(axis=0)).tolist()
    if not classes:
        return None
    chunks = [counts[i : i + _AT_ONCE] for i in range(0, len(counts), _AT_ONCE)]
    values = [np.stack([_precision(detections, k, c) for k in classes]) for c in chunks]
    # A class may have no true box in a resample; it then counts no more than it would in COCO.
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(np.concatenate(values, axis=1), axis=0))


def _precision(found: Detections, label: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the 101-point interpolated precision of one class on each resample."""
    own = np.flatnonzero(found.label == label)
    own = own[np.argsort(-found.scores[own], kind="stable")]
    weights = counts[:, found.image[own]]
    true = counts @ found.n_true[:, label]
    if not own.size:
        return np.where(true > 0, 0.0, np.nan)
    right = np.cumsum(weights * found.hit[own], axis=1)
    flagged = np.cumsum(weights, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / true[:, None]
        precision = np.nan_to_num(right / flagged)
    falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.pad(falling, ((0, 0), (0, 1)))  # beyond the last recall the precision is nought
    places = np.stack([np.searchsorted(row, _RECALLS, side="left") for row in recall])
    mean = np.take_along_axis(padded, places, axis=1).mean(axis=1)
    return np.where(true > 0, mean, np.nan)


def _hits(boxes: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.bool_]:
    hits = np.zeros(len(boxes), np.bool_)
    if not len(truth):
        return hits
    overlap = box_iou(boxes, truth)
    free = np.ones(len(truth), np.bool_)
    for i, row in enumerate(overlap):
        best = int(np.argmax(np.where(free, row, -1.0)))
        if free[best] and row[best] >= IOU:
            hits[i], free[best] = True, False
    return hits

"""Counts of true and false alarms at every threshold, and the metrics that follow from them.

Every function works on the last axis, so that one call scores one method (`(m,)`) or a thousand
bootstrap resamples of it (`(resamples, m)`), images or pixels. A sample is flagged when
`score >= threshold`; equal scores are flagged together, so ties are exact and no order is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.metrics.values import MetricError

Floats: TypeAlias = NDArray[np.floating[Any]]
Ints: TypeAlias = NDArray[np.integer[Any]]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Curve:
    """Alarm counts at falling thresholds; the point "nothing flagged" is implied, not stored.

    Attributes:
        thresholds: float[m], falling.
        tp: int[..., m], flagged defects at each threshold; the last is the number of defects.
        fp: int[..., m], flagged good ones at each threshold; the last is the number of good ones.
    """

    thresholds: Floats
    tp: Ints
    fp: Ints

    @property
    def n_defect(self) -> Ints:
        """Number of defects, int[...]."""
        return np.asarray(self.tp[..., -1])

    @property
    def n_good(self) -> Ints:
        """Number of good ones, int[...]."""
        return np.asarray(self.fp[..., -1])


def checked_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Return scores as float64[n].

    Raises:
        MetricError: they are not one-dimensional, empty, or one is NaN or infinite.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise MetricError(
            f"scores of shape {array.shape}: expected one score per image, at least one"
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise MetricError(
            f"score {bad[0]} of {array.size} is {array[bad[0]]}: a method must give finite scores"
        )
    return array


def checked_pair(
    scores: ArrayLike, is_defect: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores as float64[n] and truth as bool[n].

    Raises:
        MetricError: see `checked_scores`; or the lengths differ, or the truth is not boolean.
    """
    array = checked_scores(scores)
    truth = np.asarray(is_defect)
    if truth.dtype != np.bool_:
        if not np.isin(truth, (0, 1)).all():
            raise MetricError(
                "is_defect holds values other than 0 and 1: give one boolean per image"
            )
        truth = truth.astype(np.bool_)
    if truth.shape != array.shape:
        raise MetricError(
            f"{array.size} scores but truth of shape {truth.shape}: give one per image"
        )
    return array, truth


def alarm_curve(
    scores: NDArray[np.float64], is_defect: Bools, *, counts: Ints | None = None
) -> Curve:
    """Count alarms at each distinct score.

    Args:
        scores: float64[n], higher is worse.
        is_defect: bool[n].
        counts: int[..., n], how often each sample counts (bootstrap resamples); once by default.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
    defect = is_defect[order]
    drawn = np.ones(ranked.size, dtype=np.int64) if counts is None else counts[..., order]
    hits, alarms = drawn * defect, drawn * ~defect
    tp = np.cumsum(hits, axis=-1, dtype=np.int64)[..., last_of_tie]
    fp = np.cumsum(alarms, axis=-1, dtype=np.int64)[..., last_of_tie]
    return Curve(thresholds=ranked[last_of_tie], tp=tp, fp=fp)


def auroc(curve: Curve) -> NDArray[np.float64]:
    """Return the area under the ROC curve; needs a defect and a good one.

    Equal to the Mann-Whitney statistic with ties counted half (Hanley and McNeil 1982). The sum is
    taken in integers, so the result does not depend on the order of the samples.
    """
    steps = np.diff(curve.fp, axis=-1, prepend=0)
    twice_height = curve.tp.copy()
    twice_height[..., 1:] += curve.tp[..., :-1]
    area = np.sum(steps * twice_height, axis=-1)
    return np.asarray(area / (2.0 * curve.n_defect * curve.n_good))


def average_precision(curve: Curve) -> NDArray[np.float64]:
    """Return average precision, the sum of (R_k - R_{k-1}) P_k without interpolation.

    Needs a defect. Same definition as `sklearn.metrics.average_precision_score`.
    """
    gained = np.diff(curve.tp, axis=-1, prepend=0)
    # A resample may hold no sample at the top scores: nothing flagged, nothing gained.
    flagged = np.maximum(curve.tp + curve.fp, 1)
    return np.asarray(np.sum(gained * (curve.tp / flagged), axis=-1) / curve.n_defect)


def f1_scores(curve: Curve) -> NDArray[np.float64]:
    """Return F1 = 2 TP / (2 TP + FP + FN) at each threshold, float[..., m]; needs a defect."""
    return np.asarray(2.0 * curve.tp / (curve.tp + curve.fp + curve.n_defect[..., None]))


def tpr_at_fpr(curve: Curve, rate: float) -> NDArray[np.float64]:
    """Return the highest recall at which at most `rate` of the good ones are flagged.

    A real threshold is used, nothing is interpolated: with 20 good images a rate of 1 % allows no
    false alarm at all. Needs a defect and a good one.
    """
    allowed = curve.fp / curve.n_good[..., None] <= rate
    return np.asarray(np.max(curve.tp * allowed, axis=-1) / curve.n_defect)


def fpr_at_tpr(curve: Curve, recall: float) -> NDArray[np.float64]:
    """Return the lowest share of good ones flagged at which at least `recall` of defects are.

    A real threshold is used, nothing is interpolated. Needs a defect and a good one.
    """
    reached = curve.tp / curve.n_defect[..., None] >= recall
    n_good = curve.n_good[..., None]
    return np.asarray(np.min(np.where(reached, curve.fp, n_good), axis=-1) / curve.n_good)

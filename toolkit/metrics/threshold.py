"""Choosing a threshold on validation images. An image is flagged when `score >= threshold`.

Thresholds are placed between scores that were seen, not on them: the middle of the gap is the
best guess for scores that were not.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.metrics.roc import alarm_curve, checked_pair, checked_scores, f1_scores
from toolkit.metrics.values import MetricError

FALLBACK_FALSE_ALARM_RATE = 0.05


def f1_threshold(
    scores: ArrayLike,
    is_defect: ArrayLike,
    *,
    fallback_rate: float = FALLBACK_FALSE_ALARM_RATE,
) -> float:
    """Return the threshold with the best F1 on validation images.

    It lies in the middle between the two neighbouring scores that it parts. Of equally good
    thresholds the highest is taken: it raises the fewest alarms. Without defect images there is no
    F1, and `false_alarm_threshold(scores, fallback_rate)` is returned.

    Args:
        scores: float[n], validation scores, higher is worse.
        is_defect: bool[n].
        fallback_rate: share of good validation images flagged where there is no defect image.

    Raises:
        MetricError: shapes do not fit, there is no image, or a score is NaN or infinite.
    """
    array, truth = checked_pair(scores, is_defect)
    if not truth.any():
        return false_alarm_threshold(array, fallback_rate)
    curve = alarm_curve(array, truth)
    best = int(np.argmax(f1_scores(curve)))
    return _below(curve.thresholds, best)


def false_alarm_threshold(good_scores: ArrayLike, rate: float) -> float:
    """Return the lowest gap between good scores that flags at most `rate` of them.

    With n good images floor(rate * n) alarms are allowed. Where that is none, or ties leave none,
    the threshold is the next float above the highest score.

    Args:
        good_scores: float[n], scores of good validation images.
        rate: allowed share of false alarms, 0 to 1.

    Raises:
        MetricError: the rate lies outside [0, 1], there is no image, or a score is NaN or infinite.
    """
    if not 0.0 <= rate <= 1.0:
        raise MetricError(f"false-alarm rate {rate}: give a share between 0 and 1")
    scores = checked_scores(good_scores)
    curve = alarm_curve(scores, np.zeros(scores.size, dtype=np.bool_))
    # fp / n and a literal such as 0.05 round alike, so 1 of 20 counts as 5 %.
    allowed = np.flatnonzero(curve.fp / scores.size <= rate)
    if not allowed.size:
        return math.nextafter(float(curve.thresholds[0]), math.inf)
    return _below(curve.thresholds, int(allowed[-1]))


def _below(falling: NDArray[np.floating], index: int) -> float:
    """Return a threshold that flags `falling[index]` but not the next lower score."""
    upper = float(falling[index])
    if index + 1 == falling.size:
        return upper
    lower = float(falling[index + 1])
    middle = lower / 2 + upper / 2
    # Between two neighbouring floats the middle rounds to one of them, perhaps the wrong one.
    return middle if lower < middle <= upper else upper

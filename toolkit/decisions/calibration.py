"""Thresholds with a promise: at most this share of good products is flagged, at this confidence.

Nothing is assumed of the scores but that the calibration images and the products to come are drawn
alike and independently; the bound holds for any distribution of scores, with ties too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Threshold:
    """An image-level threshold and what it promises; an image is flagged at or above it.

    Attributes:
        value: the threshold.
        n_good: good images that it was set with.
        confidence: probability, over the draw of the calibration images, that the promise holds.
        max_false_alarms: the share of good products that was requested.
        promised_false_alarms: the share that is promised: the requested one, or the smallest that
            so few images can promise.
        n_needed: good images that the requested share takes at this confidence.
        n_flagged: calibration images at or above the threshold.
    """

    value: float
    n_good: int
    confidence: float
    max_false_alarms: float
    promised_false_alarms: float
    n_needed: int
    n_flagged: int

    @property
    def holds_request(self) -> bool:
        """Whether the requested share can be promised."""
        return self.n_good >= self.n_needed


def false_alarm_threshold(
    good_scores: Sequence[float] | NDArray[np.floating],
    *,
    max_false_alarms: float = 0.01,
    confidence: float = 0.95,
) -> Threshold:
    """Return the lowest threshold that keeps false alarms below a rate with a stated confidence.

    The threshold lies just above the r-th smallest of n scores, with the smallest r for which
    P(Binomial(n, 1 - rate) <= r - 1) >= confidence: a one-sided distribution-free tolerance limit
    (Wilks, "Determination of sample sizes for setting tolerance limits", Annals of Mathematical
    Statistics 12, 1941). Equal scores make it more careful, never less.

    If n is too small even for the largest score, the threshold lies above all scores, and
    `promised_false_alarms` is 1 - (1 - confidence)^(1/n), the best that n images can promise.

    Example:
        >>> found = false_alarm_threshold(range(299), max_false_alarms=0.01, confidence=0.95)
        >>> found.n_needed, found.holds_request, found.n_flagged
        (299, True, 0)

    Args:
        good_scores: raw scores of good images that no training saw, at least two.
        max_false_alarms: largest share of good products that may be flagged, above 0 and below 1.
        confidence: above 0 and below 1.

    Raises:
        DataError: fewer than two scores, one that is not finite, or a rate outside its range.
    """
    scores = _checked(good_scores, "good scores")
    _check_share("max_false_alarms", max_false_alarms)
    _check_share("confidence", confidence)
    needed = images_needed(max_false_alarms, confidence)
    n = len(scores)
    rank, promised = n, max_false_alarms
    if n >= needed:
        rank = _smallest_rank(n, max_false_alarms, confidence)
    else:
        promised = 1 - (1 - confidence) ** (1 / n)
    value = float(np.nextafter(np.sort(scores)[rank - 1], np.inf))
    return Threshold(
        value=value,
        n_good=n,
        confidence=confidence,
        max_false_alarms=max_false_alarms,
        promised_false_alarms=promised,
        n_needed=needed,
        n_flagged=int((scores >= value).sum()),
    )


def images_needed(max_false_alarms: float, confidence: float) -> int:
    """Return the smallest number of good images with which a rate can be promised.

    The largest of n scores bounds the rate if (1 - rate)^n <= 1 - confidence.

    Example:
        >>> images_needed(0.01, 0.95), images_needed(0.05, 0.95)
        (299, 59)
    """
    _check_share("max_false_alarms", max_false_alarms)
    _check_share("confidence", confidence)
    n = math.ceil(math.log1p(-confidence) / math.log1p(-max_false_alarms))
    return max(2, n)


def promised_rate(n_flagged: int, n_good: int, *, confidence: float = 0.95) -> float:
    """Return the share of good products that a threshold at a given rank flags at most.

    The reverse of `false_alarm_threshold`: for a threshold just above the (n_good - n_flagged)-th
    smallest of n_good scores, where n_flagged was fixed beforehand and not chosen by the scores.

    Example:
        >>> round(promised_rate(0, 59), 3), round(promised_rate(1, 32), 3)
        (0.05, 0.14)

    Args:
        n_flagged: good calibration images at or above the threshold.
        n_good: good calibration images.
        confidence: probability, over the draw of these, that the bound holds.

    Raises:
        DataError: not 0 <= n_flagged <= n_good, no images, or a confidence outside 0 to 1.
    """
    # The upper end of a two-sided interval whose tails are twice as large.
    _check_share("confidence", confidence)
    if confidence <= 0.5:
        raise DataError(f"confidence={confidence}: must be above 0.5")
    return clopper_pearson(n_flagged, n_good, confidence=2 * confidence - 1)[1]


def p_values(
    scores: Sequence[float] | NDArray[np.floating],
    good_scores: Sequence[float] | NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return split-conformal p-values: how unusual scores are among those of good images.

    p = (1 + number of good scores at or above it) / (n + 1); for a good product P(p <= a) <= a
    (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Bates et al., "Testing
    for outliers with conformal p-values", Annals of Statistics 51, 2023).

    Example:
        >>> p_values([5.0, 0.0], [1.0, 2.0, 3.0]).tolist()
        [0.25, 1.0]

    Args:
        scores: raw scores, higher is worse; NaN counts as the worst of all.
        good_scores: scores of good images that no training saw.

    Returns:
        float64 array (n,).
    """
    good = np.sort(_checked(good_scores, "good scores"))
    values = np.asarray(scores, np.float64).reshape(-1)
    above = len(good) - np.searchsorted(good, values, side="left")
    above[np.isnan(values)] = 0
    found: NDArray[np.float64] = (1 + above) / (len(good) + 1)
    return found


def clopper_pearson(count: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a binomial share (Clopper, Pearson, 1934).

    Example:
        >>> low, high = clopper_pearson(0, 20)
        >>> low, round(high, 4)
        (0.0, 0.1684)

    Raises:
        DataError: not 0 <= count <= total, nothing was counted, or a confidence outside 0 to 1.
    """
    from scipy.special import betaincinv  # half a second less to import than scipy.stats

    _check_share("confidence", confidence)
    if not 0 <= count <= total or total < 1:
        raise DataError(f"{count} of {total}: an interval needs at least one trial")
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(betaincinv(count + 1, total - count, 1 - tail))
    return low, high


def _smallest_rank(n: int, rate: float, confidence: float) -> int:
    """Return the smallest r with P(Binomial(n, 1 - rate) <= r - 1) >= confidence."""
    from scipy.special import bdtr

    at_most = bdtr(np.arange(n), n, 1 - rate)
    return min(int(np.searchsorted(at_most, confidence)) + 1, n)


def _checked(scores: Sequence[float] | NDArray[np.floating], name: str) -> NDArray[np.float64]:
    values = np.asarray(scores, np.float64).reshape(-1)
    if len(values) < 2:
        raise DataError(f"{name}: {len(values)} given; at least two are needed")
    if not np.isfinite(values).all():
        raise DataError(f"{name}: NaN or infinity among them; predict these images again")
    return values


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise DataError(f"{name}={value}: must be above 0 and below 1")

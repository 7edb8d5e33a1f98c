"""The threshold of least expected cost, from scores of good and defective images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class CheapestThreshold:
    """A threshold and what it costs on the images that it was chosen with.

    Attributes:
        value: the threshold; an image is flagged at or above it.
        expected_cost: per product.
        escape_rate: share of defective images below it.
        overkill_rate: share of good images at or above it.
    """

    value: float
    expected_cost: float
    escape_rate: float
    overkill_rate: float


def cheapest_threshold(
    good_scores: Sequence[float] | NDArray[np.floating],
    defect_scores: Sequence[float] | NDArray[np.floating],
    *,
    cost_escape: float,
    cost_false_alarm: float,
    defect_rate: float,
) -> CheapestThreshold:
    """Return the threshold of least expected cost per product.

    The cost is defect_rate * cost_escape * P(score < t | defect)
    + (1 - defect_rate) * cost_false_alarm * P(score >= t | good) (Elkan, "The foundations of
    cost-sensitive learning", IJCAI 2001). Between two scores all thresholds cost the same: the
    middle is taken, and of several cheapest places the lowest, which lets fewer defects escape.

    Example:
        >>> cheapest_threshold([0, 1, 2], [3, 4], cost_escape=100, cost_false_alarm=1,
        ...                    defect_rate=0.01).value
        2.5

    Args:
        good_scores: raw scores of good images.
        defect_scores: raw scores of defective images.
        cost_escape: of a defective product that passes, in any currency.
        cost_false_alarm: of a good product that is flagged.
        defect_rate: share of defective products on the line.

    Raises:
        DataError: no scores, scores that are not finite, a negative cost, or a rate outside 0 to 1.
    """
    good, defect = (np.asarray(s, np.float64).reshape(-1) for s in (good_scores, defect_scores))
    if not len(good) or not len(defect):
        raise DataError("costs: need scores of good and of defective images")
    if not (np.isfinite(good).all() and np.isfinite(defect).all()):
        raise DataError("costs: NaN or infinity among the scores; predict these images again")
    for name, cost in (("cost_escape", cost_escape), ("cost_false_alarm", cost_false_alarm)):
        if not 0 <= cost < np.inf:
            raise DataError(f"{name}={cost}: must be 0 or more")
    if not 0 <= defect_rate <= 1:
        raise DataError(f"defect_rate={defect_rate}: must be from 0 to 1")
    levels = np.unique(np.concatenate([good, defect]))
    middle = levels[:-1] / 2 + levels[1:] / 2
    # Between two neighbouring floats the middle rounds to one of them, perhaps the wrong one.
    middle = np.where(middle > levels[:-1], middle, levels[1:])
    thresholds = np.concatenate([levels[:1], middle, [np.nextafter(levels[-1], np.inf)]])
    escapes = np.searchsorted(np.sort(defect), thresholds, side="left") / len(defect)
    overkill = 1 - np.searchsorted(np.sort(good), thresholds, side="left") / len(good)
    costs = defect_rate * cost_escape * escapes + (1 - defect_rate) * cost_false_alarm * overkill
    # Of equal costs, which rounding may part, the first: the lowest threshold.
    best = int(np.flatnonzero(costs <= costs.min() * (1 + 1e-12))[0])
    return CheapestThreshold(
        value=float(thresholds[best]),
        expected_cost=float(costs[best]),
        escape_rate=float(escapes[best]),
        overkill_rate=float(overkill[best]),
    )

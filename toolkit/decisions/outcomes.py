"""Three outcomes of an inspection: OK, REVIEW between two thresholds, and NOK."""

from __future__ import annotations

import math
from enum import Enum


class Outcome(str, Enum):
    """What happens to a product."""

    OK = "OK"
    REVIEW = "REVIEW"
    NOK = "NOK"


def outcome(
    score: float, *, nok_threshold: float, review_threshold: float | None = None
) -> Outcome:
    """Return the outcome of a score; one that is not a finite number is never OK.

    Example:
        >>> outcome(0.4, nok_threshold=0.5, review_threshold=0.3).value
        'REVIEW'

    Args:
        score: raw anomaly score, higher is worse.
        nok_threshold: at or above it the product is NOK.
        review_threshold: at or above it a person decides; None for no such band.

    Raises:
        ValueError: the review threshold lies above the other.
    """
    if review_threshold is not None and review_threshold > nok_threshold:
        raise ValueError(
            f"review_threshold={review_threshold}: must not be above nok_threshold={nok_threshold}"
        )
    if not math.isfinite(score) or score >= nok_threshold:
        return Outcome.NOK
    if review_threshold is not None and score >= review_threshold:
        return Outcome.REVIEW
    return Outcome.OK

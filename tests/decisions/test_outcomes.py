"""OK, REVIEW and NOK at and around their thresholds."""

from __future__ import annotations

import math

import pytest

from toolkit.decisions.outcomes import outcome


@pytest.mark.parametrize(
    ("score", "with_review", "without"),
    [
        (0.1, "OK", "OK"),
        (0.3, "REVIEW", "OK"),
        (0.4, "REVIEW", "OK"),
        (0.5, "NOK", "NOK"),
        (9.0, "NOK", "NOK"),
        (math.nan, "NOK", "NOK"),
        (math.inf, "NOK", "NOK"),
        (-math.inf, "NOK", "NOK"),
    ],
)
def test_outcomes(score: float, with_review: str, without: str) -> None:
    assert outcome(score, nok_threshold=0.5, review_threshold=0.3).value == with_review
    assert outcome(score, nok_threshold=0.5).value == without


def test_equal_thresholds_leave_no_band() -> None:
    assert outcome(0.5, nok_threshold=0.5, review_threshold=0.5).value == "NOK"


def test_thresholds_in_the_wrong_order() -> None:
    with pytest.raises(ValueError, match="must not be above"):
        outcome(0.5, nok_threshold=0.3, review_threshold=0.5)

"""Calibrated thresholds keep their promise, whatever the distribution of the scores is."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from toolkit.decisions.calibration import (
    _smallest_rank,
    clopper_pearson,
    false_alarm_threshold,
    images_needed,
    p_values,
    promised_rate,
)
from toolkit.errors import DataError

N_CALIBRATIONS = 2000
CONFIDENCE = 0.95

# Each shape: draws, and the true share of good products at or above a threshold.
Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]
SHAPES: dict[str, tuple[Draw, Callable[[float], float]]] = {
    "normal": (
        lambda rng, size: rng.standard_normal(size),
        lambda t: 0.5 * math.erfc(t / math.sqrt(2)),
    ),
    "heavy tail": (
        lambda rng, size: rng.pareto(1.0, size),
        lambda t: 1.0 if t <= 0 else 1 / (1 + t),
    ),
    # Whole numbers: P(score >= t) = 0.9^ceil(t), so that most scores are tied.
    "ties": (
        lambda rng, size: rng.geometric(0.1, size).astype(np.float64) - 1,
        lambda t: 0.9 ** max(math.ceil(t), 0),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("n", "rate"), [(59, 0.05), (299, 0.01), (1000, 0.01), (1000, 0.05)])
def test_the_promise_holds_at_its_confidence(shape: str, n: int, rate: float) -> None:
    draw, tail = SHAPES[shape]
    scores = draw(np.random.default_rng(n), (N_CALIBRATIONS, n))
    thresholds = [
        false_alarm_threshold(row, max_false_alarms=rate, confidence=CONFIDENCE) for row in scores
    ]
    assert all(t.holds_request and t.promised_false_alarms == rate for t in thresholds)
    kept = np.mean([tail(t.value) <= rate for t in thresholds])
    # The share that keeps the promise is at least the confidence; 4 standard errors for chance.
    assert kept >= CONFIDENCE - 4 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / N_CALIBRATIONS)
    if shape != "ties":  # without ties it is known: P(Binomial(n, 1 - rate) <= r - 1)
        exact = _cdf(n, 1 - Fraction(str(rate)), _smallest_rank(n, rate, CONFIDENCE) - 1)
        assert kept == pytest.approx(float(exact), abs=0.02)


def test_with_too_few_images_the_best_promise_holds() -> None:
    draw, tail = SHAPES["normal"]
    for n in (2, 20, 58):
        found = [
            false_alarm_threshold(row, max_false_alarms=0.01)
            for row in draw(np.random.default_rng(n), (N_CALIBRATIONS, n))
        ]
        assert not any(t.holds_request for t in found)
        promised = found[0].promised_false_alarms
        assert promised == pytest.approx(1 - 0.05 ** (1 / n))
        kept = np.mean([tail(t.value) <= promised for t in found])
        assert kept == pytest.approx(CONFIDENCE, abs=0.02)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_the_number_of_images_is_the_smallest(rate: float, confidence: float) -> None:
    n = images_needed(rate, confidence)
    passing, wanted = 1 - Fraction(str(rate)), 1 - Fraction(str(confidence))
    assert passing**n <= wanted
    assert n == 2 or passing ** (n - 1) > wanted


@pytest.mark.parametrize("n", [59, 100, 299, 500])
@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_the_rank_is_the_smallest(n: int, rate: float) -> None:
    rank, passing = _smallest_rank(n, rate, CONFIDENCE), 1 - Fraction(str(rate))
    assert _cdf(n, passing, rank - 1) >= Fraction(95, 100)
    assert _cdf(n, passing, rank - 2) < Fraction(95, 100)


def test_more_images_allow_a_lower_threshold() -> None:
    found = false_alarm_threshold(range(1000), max_false_alarms=0.05)
    assert found.n_flagged > 0
    assert found.n_flagged / 1000 < 0.05
    assert (np.arange(1000) >= found.value).sum() == found.n_flagged


def test_equal_scores_are_not_flagged() -> None:
    found = false_alarm_threshold([1.0] * 300, max_false_alarms=0.05)
    assert found.n_flagged == 0
    assert found.value > 1.0


@pytest.mark.parametrize("total", [1, 20, 83])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_clopper_pearson_equals_scipy(total: int, confidence: float) -> None:
    from scipy.stats import binomtest

    for count in range(total + 1):
        wanted = binomtest(count, total).proportion_ci(confidence, method="exact")
        found = clopper_pearson(count, total, confidence=confidence)
        assert found == pytest.approx((wanted.low, wanted.high), abs=1e-9)


@pytest.mark.parametrize(("n", "k"), [(20, 0), (32, 1), (300, 7)])
def test_the_promise_of_a_rank_holds_at_its_confidence(n: int, k: int) -> None:
    bound = promised_rate(k, n)
    scores = np.sort(np.random.default_rng(n).random((N_CALIBRATIONS, n)), axis=1)
    kept = (1 - scores[:, n - k - 1] <= bound).mean()
    assert kept == pytest.approx(CONFIDENCE, abs=0.02)
    if k == 0:
        assert bound == pytest.approx(1 - 0.05 ** (1 / n))


def test_p_values_of_good_products_are_valid() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        scores = rng.geometric(0.2, 40).astype(float)
        found.append(p_values(scores[:20], scores[20:]))
    values = np.concatenate(found)
    for level in (0.05, 0.1, 0.25, 0.5):
        assert (values <= level).mean() <= level + 0.02


def test_p_values_equal_their_definition() -> None:
    rng = np.random.default_rng(1)
    good, scores = rng.integers(0, 9, 30).astype(float), rng.integers(-1, 11, 50).astype(float)
    wanted = [(1 + sum(g >= s for g in good)) / 31 for s in scores]
    np.testing.assert_allclose(p_values(scores, good), wanted)
    assert p_values([math.nan, math.inf], good).tolist() == [1 / 31, 1 / 31]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: false_alarm_threshold([1.0]), "good scores: 1 given"),
        (lambda: false_alarm_threshold([1.0, math.nan]), "NaN or infinity"),
        (lambda: false_alarm_threshold([1, 2], max_false_alarms=1.5), "max_false_alarms=1.5"),
        (lambda: false_alarm_threshold([1, 2], max_false_alarms=0), "max_false_alarms=0"),
        (lambda: false_alarm_threshold([1, 2], confidence=1.0), "confidence=1.0"),
        (lambda: images_needed(math.nan, 0.95), "max_false_alarms=nan"),
        (lambda: p_values([1.0], []), "good scores: 0 given"),
        (lambda: promised_rate(0, 9, confidence=0.4), "confidence=0.4: must be above 0.5"),
        (lambda: promised_rate(3, 2), "3 of 2"),
        (lambda: clopper_pearson(0, 0), "0 of 0"),
        (lambda: clopper_pearson(3, 2), "3 of 2"),
        (lambda: clopper_pearson(1, 2, confidence=1), "confidence=1"),
    ],
)
def test_bad_input_is_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message.replace("(", r"\(")) as error:
        call()
    assert "\n" not in str(error.value)


def _cdf(n: int, share: Fraction, k: int) -> Fraction:
    """Return P(Binomial(n, share) <= k), exactly."""
    top, bottom = share.numerator, share.denominator
    total = sum(math.comb(n, i) * top**i * (bottom - top) ** (n - i) for i in range(k + 1))
    return Fraction(total, bottom**n)

"""The drift test keeps its false-alarm rate over any number of looks, and finds changes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad

from toolkit.decisions.drift import (
    drift_test,
    evidence,
    kolmogorov_smirnov,
    mean_embedding_shift,
    online_p_values,
    population_stability_index,
)
from toolkit.errors import DataError

RATE = 0.05


@pytest.mark.slow
def test_false_alarms_over_ten_thousand_images_stay_below_the_rate() -> None:
    # 400 lines at once, on p-values that are uniform, as `online_p_values` gives them.
    p = np.random.default_rng(0).random((400, 10_000))
    alarms = (evidence(p).max(axis=-1) >= -math.log10(RATE)).mean()
    assert alarms <= RATE + 3 * math.sqrt(RATE * (1 - RATE) / 400)


@pytest.mark.parametrize("shape", ["normal", "ties"])
def test_false_alarms_from_scores_on(shape: str) -> None:
    p = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        every = (
            rng.normal(size=10_060) if shape == "normal" else rng.poisson(2, 10_060).astype(float)
        )
        p.append(online_p_values(every[60:], every[:60], seed=seed))
    values = np.array(p)
    assert (evidence(values).max(axis=-1) >= -math.log10(RATE)).mean() <= 0.1
    # Uniform, and independent from one to the next.
    assert values.mean() == pytest.approx(0.5, abs=0.005)
    assert values.var() == pytest.approx(1 / 12, abs=0.005)
    assert np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1] == pytest.approx(
        0, abs=0.01
    )


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 100, 10_000])
@pytest.mark.parametrize(("shift", "within"), [(3.0, 25), (-3.0, 25), (1.5, 60)])
def test_a_shift_is_found(shift: float, within: int, start: int) -> None:
    delays = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        good, new = rng.normal(size=300), rng.normal(size=start + within)
        new[start:] += shift
        found = drift_test(new, good, seed=seed)
        delays.append(math.inf if found.alarm_at is None else found.alarm_at - start)
    assert np.median(delays) <= within


def test_the_expected_evidence_is_one() -> None:
    mean, _ = quad(lambda p: 10 ** evidence(np.array([p]))[0], 0, 1, limit=200)
    assert mean == pytest.approx(1, abs=0.02)  # p-values below 1e-12 are clipped


def test_several_series_at_once_equal_each_alone() -> None:
    p = np.random.default_rng(1).random((3, 50))
    np.testing.assert_allclose(evidence(p), [evidence(row) for row in p])


def test_the_same_scores_give_the_same_answer() -> None:
    good, new = [1.0, 2.0, 2.0], [2.0] * 50
    first, second = drift_test(new, good, seed=3), drift_test(new, good, seed=3)
    np.testing.assert_array_equal(first.log10_evidence, second.log10_evidence)


def test_kolmogorov_smirnov_and_psi() -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(size=500)
    assert kolmogorov_smirnov(good, good) == (0.0, 1.0)
    assert kolmogorov_smirnov(rng.normal(1, size=500), good)[1] < 1e-9
    assert population_stability_index(rng.normal(size=500), good) < 0.1
    assert population_stability_index(rng.normal(1, size=500), good) > 0.25
    assert math.isfinite(population_stability_index([9.0], [1.0, 1.0]))


def test_the_mean_embedding_keeps_its_rate_and_finds_a_shift() -> None:
    p = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        good, new = rng.normal(size=(30, 6)), rng.normal(size=(20, 6))
        p.append(mean_embedding_shift(new, good, permutations=99, seed=seed)[1])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p) <= level) <= level + 4 * math.sqrt(level * (1 - level) / 200)
    assert np.mean(p) == pytest.approx(0.5, abs=0.1)
    rng = np.random.default_rng(0)
    good = rng.normal(size=(200, 4))
    moved = rng.normal([2, 0, 0, 0], 1, size=(200, 4))
    distance, value = mean_embedding_shift(moved, good)
    assert distance == pytest.approx(2 / math.sqrt(4), rel=0.1)  # in units of the total spread
    assert value == 0.001
    assert mean_embedding_shift(good[:5], good)[1] > 0.05
    assert mean_embedding_shift([[1.0]], [[1.0], [1.0]]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: drift_test([], [1.0, 2.0]), "scores: 0 given"),
        (lambda: drift_test([1.0], [1.0]), "good scores: 1 given"),
        (lambda: drift_test([math.nan], [1.0, 2.0]), "NaN or infinity"),
        (lambda: drift_test([1.0], [1.0, 2.0], false_alarm_rate=1), "false_alarm_rate=1"),
        (lambda: mean_embedding_shift(np.ones((2, 3)), np.ones((2, 4))), "rows of one length"),
        (lambda: mean_embedding_shift(np.ones((2, 3)), np.ones((1, 3))), "2 new and 1 good"),
        (lambda: mean_embedding_shift(np.full((1, 1), np.nan), np.ones((2, 1))), "NaN"),
    ],
)
def test_bad_input_is_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()

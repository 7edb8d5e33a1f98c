"""The cheapest threshold equals the cheapest of all thresholds tried one by one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.decisions.costs import cheapest_threshold
from toolkit.errors import DataError

scores = st.lists(
    st.integers(-5, 5).map(float) | st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12
)
costs = st.floats(0, 1000)


def cost(
    threshold: float, good: list[float], defect: list[float], prices: tuple[float, float, float]
) -> float:
    escape, alarm, rate = prices
    escapes = sum(s < threshold for s in defect) / len(defect)
    overkill = sum(s >= threshold for s in good) / len(good)
    return rate * escape * escapes + (1 - rate) * alarm * overkill


@given(scores, scores, st.tuples(costs, costs, st.floats(0, 1)))
def test_no_threshold_is_cheaper(
    good: list[float], defect: list[float], prices: tuple[float, float, float]
) -> None:
    escape, alarm, rate = prices
    found = cheapest_threshold(
        good, defect, cost_escape=escape, cost_false_alarm=alarm, defect_rate=rate
    )
    levels = sorted({*good, *defect})
    every = [*levels, math.nextafter(levels[-1], math.inf)]
    least = min(cost(t, good, defect, prices) for t in every)
    assert found.expected_cost == pytest.approx(least, rel=1e-9, abs=1e-12)
    assert cost(found.value, good, defect, prices) == pytest.approx(least, rel=1e-9, abs=1e-12)
    assert found.escape_rate == sum(s < found.value for s in defect) / len(defect)
    assert found.overkill_rate == pytest.approx(sum(s >= found.value for s in good) / len(good))
    # No threshold that lets fewer defects escape costs the same.
    lower = [t for t in every if t < found.value and cost(t, good, defect, prices) <= least]
    assert all(sum(s < t for s in defect) == sum(s < found.value for s in defect) for t in lower)


def test_dear_escapes_lower_the_threshold() -> None:
    good, defect = [0.0, 1.0, 2.0, 5.0], [1.5, 4.0, 6.0]
    cheap = cheapest_threshold(good, defect, cost_escape=1, cost_false_alarm=10, defect_rate=0.1)
    dear = cheapest_threshold(good, defect, cost_escape=1e6, cost_false_alarm=1, defect_rate=0.1)
    assert cheap.overkill_rate == 0
    assert dear.escape_rate == 0
    assert dear.value < cheap.value


def test_neighbouring_floats_are_parted() -> None:
    low, high = 1.0, math.nextafter(1.0, 2.0)
    found = cheapest_threshold([low], [high], cost_escape=1, cost_false_alarm=1, defect_rate=0.5)
    assert low < found.value <= high
    assert found.expected_cost == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"good_scores": []}, "need scores of good and of defective"),
        ({"defect_scores": []}, "need scores of good and of defective"),
        ({"defect_scores": [math.inf]}, "NaN or infinity"),
        ({"cost_escape": -1}, "cost_escape=-1"),
        ({"cost_false_alarm": math.nan}, "cost_false_alarm=nan"),
        ({"defect_rate": 1.5}, "defect_rate=1.5"),
    ],
)
def test_bad_input_is_one_line(changed: dict[str, object], message: str) -> None:
    given = {
        "good_scores": [0.0], "defect_scores": [1.0], "cost_escape": 1, "cost_false_alarm": 1,
        "defect_rate": 0.5, **changed,
    }  # fmt: skip
    with pytest.raises(DataError, match=message):
        cheapest_threshold(**given)  # type: ignore[arg-type]

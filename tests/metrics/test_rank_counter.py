import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.metrics import rank_counter
from toolkit.metrics.rank_counter import RankCounter

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def check(thresholds: np.ndarray, batches: list[np.ndarray]) -> None:
    counter = RankCounter(thresholds)
    for values in batches:
        counter.add(values)
    below, at_or_below = counter.counts()
    everything = np.concatenate(batches)
    np.testing.assert_array_equal(below, (everything[:, None] < thresholds).sum(axis=0))
    np.testing.assert_array_equal(at_or_below, (everything[:, None] <= thresholds).sum(axis=0))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(FLOATS, min_size=1, max_size=20),
    st.lists(FLOATS, min_size=1, max_size=40),
)
def test_equal_to_counting_one_by_one(thresholds, values):
    """Any finite floats: subnormal, huge, both zeros, ties with thresholds."""
    # + 0.0: the two zeros are one threshold
    rising = np.unique(np.array(thresholds, dtype=np.float32) + np.float32(0))
    several = np.array(values + thresholds, dtype=np.float32)
    check(rising, [several, several[:3]])


HUGE = np.finfo(np.float32).max
TINY = np.finfo(np.float32).smallest_subnormal


@pytest.mark.parametrize(
    ("low", "high"),
    [
        # an ordinary range
        (0.0, 1.0),
        # a range that overflows float32
        (-HUGE, HUGE),
        # a range so small that its inverse overflows
        (0.0, TINY),
        # a range of few floats
        (1000.0, 1000.01),
    ],
)
def test_ranges(low, high):
    rng = np.random.default_rng(0)
    values = (low + (np.float64(high) - low) * rng.uniform(-0.2, 1.2, 400)).clip(-HUGE, HUGE)
    values = values.astype(np.float32)
    rising = np.unique(np.append(values[:50], np.float32([low, high])))
    check(rising, [values])


@pytest.mark.parametrize("buckets", [4, 64, 1 << 12])
def test_table_sizes_change_no_count(monkeypatch, buckets):
    """Many thresholds in each bucket, or one; values in many parts."""
    monkeypatch.setattr(rank_counter, "MAX_BUCKETS", buckets)
    monkeypatch.setattr(rank_counter, "PART", 48)
    values = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    check(np.unique(values[:999]), [values[:700], values[700:]])


def test_thresholds_crowded_in_one_bucket():
    """One far threshold leaves all others to a single bucket."""
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    check(np.unique(np.append(values[:333], np.float32(1e30))), [values])


@pytest.mark.parametrize("size", [1, 7, 100])
def test_falling_parts_say_what_the_counts_say(size):
    values = np.round(np.random.default_rng(0).normal(size=300), 1).astype(np.float32)
    rising = np.unique(values[:80])
    counter = RankCounter(rising)
    counter.add(values)
    below, at_or_below = counter.counts()
    above, at_or_above = np.zeros(rising.size, int), np.zeros(rising.size, int)
    for part, over, at_or_over in counter.falling(size):
        above[part], at_or_above[part] = over[::-1], at_or_over[::-1]
    np.testing.assert_array_equal(above, values.size - at_or_below)
    np.testing.assert_array_equal(at_or_above, values.size - below)


def test_counts_beyond_the_small_type(monkeypatch):
    """The tables change their type before they could overflow, and lose nothing."""
    monkeypatch.setattr(rank_counter, "MAX_SMALL_COUNT", 100)
    values = np.arange(90, dtype=np.float32)
    check(values[::3], [values, values, values])

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.metrics import count
from toolkit.metrics.count import RankCounter

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def check(thresholds: np.ndarray, batches: list[np.ndarray], *, batch: int) -> None:
    counter = RankCounter(thresholds, batch=batch)
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
    st.integers(1, 5000),
)
def test_equal_to_counting_one_by_one(thresholds, values, batch):
    """Any finite floats: subnormal, huge, both zeros, ties with thresholds."""
    # + 0.0: the two zeros are one threshold
    rising = np.unique(np.array(thresholds, dtype=np.float32) + np.float32(0))
    several = np.array(values + thresholds, dtype=np.float32)
    check(rising, [several, several[:3]], batch=batch)


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
        # a million buckets over a range of few floats
        (1000.0, 1000.01),
    ],
)
def test_ranges(low, high):
    rng = np.random.default_rng(0)
    values = (low + (np.float64(high) - low) * rng.uniform(-0.2, 1.2, 400)).clip(-HUGE, HUGE)
    values = values.astype(np.float32)
    rising = np.unique(np.append(values[:50], np.float32([low, high])))
    check(rising, [values], batch=1 << 20)


def test_sorting_in_several_rounds(monkeypatch):
    """Bounded memory changes no count."""
    monkeypatch.setattr(count, "PENDING_VALUES", 16)
    monkeypatch.setattr(count, "MAX_BUCKETS", 64)
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=1000), 1).astype(np.float32)
    check(np.unique(values[:100]), [values[:700], values[700:]], batch=1 << 20)

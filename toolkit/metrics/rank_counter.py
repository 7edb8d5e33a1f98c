"""Exact counts of how many of very many values lie below each of many thresholds.

The thresholds are sorted into equal buckets, at least as many as there are thresholds. A value
whose bucket holds no threshold is only counted there; for anomaly maps these are most, since good
pixels crowd where defect scores are sparse. The others find their place among the few thresholds of
their bucket by bisection. Nothing is sorted: this takes a few nanoseconds per value, sorting them
all takes ten to fifty, and it needs memory for the thresholds alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

MAX_BUCKETS = 1 << 21
"""Tables of this many buckets still lie, for the most part, in the processor's caches."""
MAX_SMALL_COUNT = 2**32 - 1
PART = 1 << 18
"""Values handled at a time, so that intermediate arrays stay in the caches."""


class RankCounter:
    """Counts values below, and at or below, each threshold.

    Args:
        thresholds: float32[m], rising, all different, finite, at least one.
    """

    def __init__(self, thresholds: NDArray[np.float32]) -> None:
        m = thresholds.size
        self._n_buckets = min(1 << (2 * m + 2).bit_length(), MAX_BUCKETS)
        low, high = float(thresholds[0]), float(thresholds[-1])
        with np.errstate(over="ignore", under="ignore"):
            scale = np.float32((self._n_buckets - 2) / (high - low) if high > low else 0.0)
        # Where the range is too narrow for float32, one bucket takes everything: slower, as exact.
        self._scale = scale if np.isfinite(scale) else np.float32(0)
        self._low = thresholds[0] if self._scale else np.float32(0)

        held = np.zeros(self._n_buckets, dtype=np.int32)
        for start in range(0, m, PART):
            np.add.at(held, self._buckets(thresholds[start : start + PART]), np.int32(1))
        # Number of thresholds in lower buckets; inverted (negative) where it holds some itself.
        self._first_of_bucket = np.cumsum(held, dtype=np.int32)
        self._first_of_bucket -= held
        np.invert(self._first_of_bucket, out=self._first_of_bucket, where=held > 0)
        # Bisection halves a span of up to `_span` thresholds; it may look past the last one.
        self._span = 1 << (int(held.max()).bit_length() - 1)
        self._padded = np.append(thresholds, np.full(2 * self._span, np.inf, dtype=np.float32))

        # At i: values above threshold i - 1, up to and including threshold i. Half the memory while
        # it suffices.
        self._n_values = 0
        self._n_up_to = np.zeros(m + 1, dtype=np.uint32)
        self._n_equal = np.zeros(m + 1, dtype=np.uint32)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count float32[n] finite values."""
        self._n_values += values.size
        if self._n_values > MAX_SMALL_COUNT and self._n_up_to.dtype == np.uint32:
            self._n_up_to = self._n_up_to.astype(np.int64)
            self._n_equal = self._n_equal.astype(np.int64)
        for start in range(0, values.size, PART):
            part = values[start : start + PART]
            place = self._first_of_bucket.take(self._buckets(part))
            open_ = np.flatnonzero(place < 0)
            place[open_] = self._bisect(part.take(open_), ~place.take(open_))
            # One of the tables' own type: a cast would cost twenty times the addition.
            np.add.at(self._n_up_to, place, self._n_up_to.dtype.type(1))

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return int64[m] twice: values below, and at or below, each threshold."""
        at_or_below = np.cumsum(self._n_up_to[:-1], dtype=np.int64)
        return at_or_below - self._n_equal[:-1], at_or_below

    def falling(self, size: int) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
        """Go through the thresholds from the highest down, without arrays for all of them.

        Args:
            size: thresholds at a time.

        Yields:
            Which of the (rising) thresholds, and int64 twice, in falling order: values above, and
            at or above, each of them.
        """
        above_all = int(self._n_up_to[-1])
        for stop in range(self._n_up_to.size - 1, 0, -size):
            part = slice(max(stop - size, 0), stop)
            up_to = self._n_up_to[part][::-1].astype(np.int64)
            seen = above_all + np.cumsum(up_to)
            above = seen - up_to
            yield part, above, above + self._n_equal[part][::-1]
            above_all = int(seen[-1])

    def _buckets(self, values: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return the bucket of each value: 0 below all thresholds, then rising with the value.

        Each step of the float arithmetic keeps the order, so values in different buckets are
        ordered as their buckets are, whatever the rounding.
        """
        with np.errstate(over="ignore", under="ignore"):
            position = values - self._low
            position *= self._scale
            position += np.float32(1)
        np.clip(position, 0, self._n_buckets - 1, out=position)
        return position.astype(np.intp)

    def _bisect(self, values: NDArray[np.float32], first: NDArray[np.int32]) -> NDArray[np.intp]:
        """Find the lowest threshold at or above each value, from the first of its bucket on."""
        place = first.astype(np.intp)
        step = self._span
        while step:
            # Thresholds of later buckets lie above the value, so no end needs to be watched.
            place += step * (self._padded.take(place + (step - 1)) < values)
            step //= 2
        same = place[self._padded.take(place) == values]
        np.add.at(self._n_equal, same, self._n_equal.dtype.type(1))
        return place

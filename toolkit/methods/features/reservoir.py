"""A fixed number of patches, drawn evenly from a stream of any length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class Reservoir:
    """Keeps a uniform sample of all rows that it was given, in memory that it takes once.

    While there is room every row is kept; then each new row replaces a kept one at random with the
    probability that keeps the sample uniform (Vitter 1985, algorithm R).

    Rows are held in half precision, whose rounding (a part in 2,000) is far below the distances
    between patches; a row beyond its range, 65,504, turns all into float32.

    Args:
        capacity: rows to keep.
        channels: length of a row.
        seed: of the choices.

    Attributes:
        seen: rows given so far.
    """

    def __init__(self, capacity: int, channels: int, *, seed: int) -> None:
        import torch

        self._rows = torch.empty(capacity, channels, dtype=torch.float16)
        self._generator = torch.Generator().manual_seed(seed)
        self.seen = 0

    def __len__(self) -> int:
        return min(self.seen, len(self._rows))

    def add(self, rows: Tensor) -> None:
        """Take in rows, float tensor (n, channels)."""
        import torch

        capacity = len(self._rows)
        if self._rows.dtype == torch.float16:
            halved = rows.half()
            if torch.isfinite(halved).all():
                rows = halved
            else:
                self._rows = self._rows.float()
        room = min(capacity - len(self), len(rows))
        if room:
            self._rows[len(self) : len(self) + room] = rows[:room]
        rest = rows[room:]
        if len(rest):
            # Row number i (from 1) lands in a place from 0 to i - 1, and is lost beyond capacity.
            numbers = torch.arange(len(rest), dtype=torch.float64) + (self.seen + room + 1)
            draws = torch.rand(len(rest), dtype=torch.float64, generator=self._generator)
            places = (draws * numbers).long()
            kept = places < capacity
            # Of several rows for one place the last wins: the first one seen from the end.
            numbers_back = kept.nonzero()[:, 0].flip(0)
            taken, first = np.unique(places[numbers_back].numpy(), return_index=True)
            winners = numbers_back[torch.from_numpy(first)]
            self._rows[torch.from_numpy(taken)] = rest[winners].to(self._rows)
        self.seen += len(rows)

    def rows(self) -> Tensor:
        """Return the kept rows, float16 or float32 (len(self), channels); a view, not a copy."""
        return self._rows[: len(self)]

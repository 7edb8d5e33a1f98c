"""Choose the patches of the bank: an even sample of a stream, then a greedy k-centre coreset.

A coreset is a few patches that leave no other patch far away (PatchCore, algorithm 1).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from toolkit.progress import progress

if TYPE_CHECKING:
    from torch import Tensor

_DIRECT = "donot_use_mm_for_euclid_dist"
_GROUP = 4096
"""Size of a group of the approximate coreset: its distances stay in the processor's cache."""
_MIN_CHOICES = 160
"""Choices per group, for which groups grow: of fewer, each begins anew too often to cover well."""
_PART = 2048
"""Rows that are projected at once, which bounds what they take in float32."""


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


def projection(channels: int, dim: int, *, seed: int) -> Tensor:
    """Return a random matrix that shortens features and keeps their distances on average.

    The lemma of Johnson and Lindenstrauss (1984) bounds the error.

    Args:
        channels: length of a feature.
        dim: wanted length; 0, or one that is not shorter, gives the identity.
        seed: of the matrix.

    Returns:
        float32 tensor (channels, dim), to be multiplied from the right.
    """
    import torch

    if not 0 < dim < channels:
        return torch.eye(channels)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(channels, dim, generator=generator) / math.sqrt(dim)


def projected(features: Tensor, matrix: Tensor) -> Tensor:
    """Return features @ matrix, made in parts, so that of the features no float32 copy is held.

    Args:
        features: float16 or float32 tensor (n, d).
        matrix: float32 tensor (d, p).

    Returns:
        float32 tensor (n, p).
    """
    import torch

    product = torch.empty(len(features), matrix.shape[1])
    parts = zip(torch.split(product, _PART), torch.split(features, _PART), strict=True)
    for place, part in parts:
        torch.mm(part.float(), matrix, out=place)
    return product


def exact_coreset(features: Tensor, size: int, *, seed: int, show: bool = False) -> Tensor:
    """Choose patches greedily, each the furthest from all chosen before it.

    Takes O(n · size) distances, without ever holding more than n of them.

    Args:
        features: float32 tensor (n, d).
        size: how many to choose, at most n.
        seed: of the first choice.
        show: show the progress.

    Returns:
        int64 tensor (size,), in the order of choice; where several are furthest, the lowest index.
    """
    import torch

    count = features.shape[0]
    generator = torch.Generator().manual_seed(seed)
    first = int(torch.randint(count, (1,), generator=generator))
    chosen = torch.empty(size, dtype=torch.int64)
    # One distance per patch, that to the nearest choice so far: O(n) memory.
    nearest = torch.full((count, 1), math.inf, dtype=features.dtype, device=features.device)
    latest = first
    with progress("coreset", size, show=show) as bar:
        for i in range(size):
            chosen[i] = latest
            # Differences, not the expanded square: that one cancels where patches are nearly equal.
            distance = torch.cdist(features, features[latest][None], compute_mode=_DIRECT)
            torch.minimum(nearest, distance, out=nearest)
            nearest[latest] = -1.0  # below the zero of a duplicate, so no patch is chosen twice
            latest = int(nearest.argmax())
            bar.advance()
    return chosen


def approximate_coreset(
    features: Tensor, size: int, *, seed: int, matrix: Tensor | None = None, show: bool = False
) -> Tensor:
    """Choose patches greedily within random groups: an approximation in O(group · size).

    Each group is a random sample of all patches, so the furthest of a group is nearly the furthest
    of all; `covering_radius` measures how nearly. A group holds 4,096 patches, and more where fewer
    than 160 would be chosen from it.

    Args:
        features: float16 or float32 tensor (n, d), compared in float32.
        size: how many to choose, at most n.
        seed: of the groups and of the first choice in each.
        matrix: float32 tensor (d, p) that features are multiplied by, group by group, before they
            are compared.
        show: show the progress.

    Returns:
        int64 tensor (size,), sorted.
    """
    import torch

    count = features.shape[0]
    group = max(_GROUP, _MIN_CHOICES * count // max(size, 1))
    groups = max(1, math.ceil(count / group))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    chosen = []
    with progress("coreset", size, show=show) as bar:
        for g in range(groups):
            members = order[g * count // groups : (g + 1) * count // groups]
            share = (g + 1) * size // groups - g * size // groups
            if share:
                compared = features[members]
                compared = compared.float() if matrix is None else projected(compared, matrix)
                chosen.append(members[exact_coreset(compared, share, seed=seed + g)])
                bar.advance(share)
    return torch.cat(chosen).sort().values


def covering_radius(features: Tensor, centres: Tensor, *, chunk: int = 256) -> float:
    """Return the largest distance of any feature to the nearest centre.

    Args:
        features: float32 tensor (n, d).
        centres: float32 tensor (m, d), the chosen features.
        chunk: features per matrix product, which bounds the memory.
    """
    import torch

    parts = torch.split(features, chunk)
    return max(float(torch.cdist(part, centres).amin(dim=1).max()) for part in parts)

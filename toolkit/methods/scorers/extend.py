"""Extend banks of good patches by images that were overruled, without a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.data.images import read_rgb
from toolkit.data.types import file_sha256
from toolkit.methods.scorers.depths import DepthBank, DepthBanks, rows_of
from toolkit.methods.scorers.held_patches import owner_of
from toolkit.methods.scorers.memory_bank import MemoryBank

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.methods.features.extractor import FeatureExtractor

_ADDED_SHARE = 0.1
"""Share of an overruled image's patches that are added to the bank of each depth."""


def with_good_images(
    banks: DepthBanks, good: Sequence[Path], extractor: FeatureExtractor
) -> DepthBanks:
    """Return banks with the patches of good images that are furthest from them.

    Nothing is taken away, and whitening, scales and the moments at each place stay, so that no
    patch is further from the banks than before.
    """
    depths = list(banks.depths)
    for path in good:
        patches, owner = extractor(read_rgb(path)), owner_of(file_sha256(path))
        for i, one in enumerate(depths):
            rows = rows_of(one.depth.grid(patches, banks.grid_hw))
            depths[i] = _with_rows(one, rows, owner)
    return DepthBanks(depths, banks.grid_hw)


def _with_rows(one: DepthBank, rows: Tensor, owner: int) -> DepthBank:
    import torch

    bank = one.bank
    chosen = furthest(rows, bank, max(1, round(_ADDED_SHARE * len(rows))))
    owners = torch.full((len(chosen),), owner)
    return replace(one, bank=bank.with_rows(rows[chosen], owners))


def furthest(patches: Tensor, bank: MemoryBank, count: int) -> Tensor:
    """Choose patches greedily, each the furthest from the bank and from all chosen before it.

    Args:
        patches: float32 tensor (n, d), not whitened.
        bank: of good patches.
        count: how many to choose at most.

    Returns:
        int64 tensor, the indices; fewer than `count` where the rest are patches of the bank.
    """
    import torch

    nearest = bank.distances(patches)
    chosen: list[int] = []
    while len(chosen) < count and float(nearest.max()) > 0:
        chosen.append(int(nearest.argmax()))
        latest = MemoryBank(patches[chosen[-1]][None], bank.whitening)
        nearest = torch.minimum(nearest, latest.distances(patches))
        nearest[chosen[-1]] = 0.0
    return torch.tensor(chosen, dtype=torch.int64, device=patches.device)

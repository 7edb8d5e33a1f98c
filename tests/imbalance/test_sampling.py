"""The order of an epoch's images."""

from __future__ import annotations

import torch

from toolkit.imbalance.sampling import balanced_order, shuffled_order


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_balanced_order_draws_every_class_alike() -> None:
    labels = torch.tensor([0] * 90 + [1] * 6 + [2] * 4)
    order = balanced_order(labels, 3, _generator(), count=6000)
    shares = torch.bincount(labels[order]).double() / 6000
    # three standard deviations of a share of 1/3 in 6000 draws
    assert torch.allclose(shares, torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.019)
    assert len(balanced_order(labels, 3, _generator())) == 100


def test_shuffled_order_shows_no_image_twice() -> None:
    labels = torch.tensor([0] * 9 + [1] * 3)
    assert sorted(shuffled_order(labels, _generator()).tolist()) == list(range(12))
    assert len(set(shuffled_order(labels, _generator(), count=5).tolist())) == 5
    again = shuffled_order(labels, _generator(3))
    assert torch.equal(again, shuffled_order(labels, _generator(3)))

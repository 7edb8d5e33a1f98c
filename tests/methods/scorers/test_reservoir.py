"""A bounded, uniform sample of a stream of patches."""

from __future__ import annotations

import torch

from toolkit.methods.scorers.coreset import Reservoir


def _stream(count: int) -> torch.Tensor:
    return torch.arange(float(count))[:, None].repeat(1, 2)


def test_everything_is_kept_in_order_while_there_is_room() -> None:
    reservoir = Reservoir(10, 2, seed=0)
    reservoir.add(_stream(4))
    reservoir.add(_stream(6) + 4)
    assert torch.equal(reservoir.rows(), _stream(10))
    assert (len(reservoir), reservoir.seen) == (10, 10)


def test_rows_shows_only_what_was_given() -> None:
    reservoir = Reservoir(10, 2, seed=0)
    reservoir.add(_stream(3))
    assert reservoir.rows().shape == (3, 2)


def test_memory_is_taken_once() -> None:
    reservoir = Reservoir(10, 2, seed=0)
    reservoir.add(_stream(1))
    place = reservoir.rows().data_ptr()
    for _ in range(5):
        reservoir.add(_stream(100))
    assert reservoir.rows().data_ptr() == place
    assert (len(reservoir), reservoir.seen) == (10, 501)


def test_sample_is_uniform_over_the_stream() -> None:
    hits = torch.zeros(100)
    for seed in range(400):
        reservoir = Reservoir(20, 2, seed=seed)
        for part in torch.split(_stream(100), 7):  # parts that straddle the moment it is full
            reservoir.add(part)
        kept = reservoir.rows()[:, 0].long()
        assert len(set(kept.tolist())) == 20  # no row twice
        hits[kept] += 1
    # Each row is kept with probability 1/5: 80 times of 400, standard deviation 8.
    assert float((hits - 80).abs().max()) < 5 * 8
    # No drift from early to late rows: means of 33 rows, standard deviation 8 / √33 = 1.4.
    assert abs(float(hits[:33].mean() - hits[-33:].mean())) < 5 * 1.4 * 2**0.5


def test_same_seed_same_sample() -> None:
    kept = []
    for _ in range(2):
        reservoir = Reservoir(5, 2, seed=3)
        reservoir.add(_stream(50))
        kept.append(reservoir.rows().clone())
    assert torch.equal(kept[0], kept[1])


def test_rows_are_held_in_half_precision_until_one_does_not_fit() -> None:
    reservoir = Reservoir(4, 2, seed=0)
    reservoir.add(torch.full((2, 2), 1.5))
    assert reservoir.rows().dtype == torch.float16
    reservoir.add(torch.full((1, 2), 70_000.0))  # beyond 65,504
    expected = torch.tensor([[1.5, 1.5], [1.5, 1.5], [70_000.0, 70_000.0]])
    assert torch.equal(reservoir.rows(), expected)

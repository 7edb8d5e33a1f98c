"""Greedy coresets against a reference that holds all distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from toolkit.methods.scorers import coreset
from toolkit.methods.scorers.coreset import (
    approximate_coreset,
    covering_radius,
    exact_coreset,
    projected,
    projection,
)


def _reference(points: NDArray[np.float64], size: int, first: int) -> list[int]:
    """Furthest-point greedy, straight from the full matrix of distances."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    chosen = [first]
    while len(chosen) < size:
        nearest = distances[:, chosen].min(axis=1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen


@given(
    count=st.integers(1, 80),
    dimensions=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_exact_equals_reference_index_for_index(
    count: int, dimensions: int, seed: int, data: st.DataObject
) -> None:
    points = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    size = data.draw(st.integers(1, count))
    ours = exact_coreset(torch.from_numpy(points), size, seed=seed).tolist()
    assert ours == _reference(points.astype(np.float64), size, ours[0])


def test_exact_equals_reference_with_ties() -> None:
    # A lattice of small integers: all distances exact in float32, many of them equal.
    points = np.stack(np.meshgrid(range(6), range(6)), axis=-1).reshape(-1, 2).astype(np.float32)
    ours = exact_coreset(torch.from_numpy(points), 36, seed=1).tolist()
    assert ours == _reference(points.astype(np.float64), 36, ours[0])


@pytest.mark.parametrize("choose", [exact_coreset, approximate_coreset])
@pytest.mark.parametrize(
    ("count", "size"),
    [
        (10, 10),  # all
        (10, 1),  # one
        (9000, 341),  # fewer choices than would go evenly into the groups
        (9001, 100),  # groups of unequal size
    ],
)
def test_choices_are_distinct_and_seeded(choose, count: int, size: int) -> None:  # type: ignore[no-untyped-def]
    features = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    chosen = choose(features, size, seed=5)
    assert len(set(chosen.tolist())) == size
    assert torch.equal(chosen, choose(features, size, seed=5))


@pytest.mark.parametrize("choose", [exact_coreset, approximate_coreset])
def test_equal_patches_are_never_chosen_twice_over(choose) -> None:  # type: ignore[no-untyped-def]
    # Constant images: all distances are zero, or rounding noise around it.
    chosen = choose(torch.full((50, 8), 0.3), 50, seed=0)
    assert sorted(chosen.tolist()) == list(range(50))


def test_approximate_multiplies_group_by_group() -> None:
    features = torch.randn(9000, 6, generator=torch.Generator().manual_seed(0))
    matrix = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    chosen = approximate_coreset(features, 700, seed=2, matrix=matrix)
    assert torch.equal(chosen, approximate_coreset(features @ matrix, 700, seed=2))
    assert not torch.equal(chosen, approximate_coreset(features, 700, seed=2))


@pytest.mark.parametrize(
    ("count", "size", "groups"),
    [
        (4096, 160, 1),  # one group of 4,096
        (8192, 320, 2),  # two of them, 160 choices each
        (8192, 160, 1),  # 80 each would be too few
        (8192, 1, 1),  # never none
        (20000, 320, 2),  # 160 of 10,000 each
        (20000, 20000, 5),  # all: groups do not shrink
    ],
)
def test_groups_grow_until_enough_is_chosen_from_each(
    count: int, size: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []

    def spy(features: torch.Tensor, share: int, **_: object) -> torch.Tensor:
        shares.append(share)
        return torch.arange(share)

    monkeypatch.setattr(coreset, "exact_coreset", spy)
    approximate_coreset(torch.zeros(count, 1), size, seed=0)
    assert len(shares) == groups
    assert sum(shares) == size


def test_approximate_covers_nearly_as_well_as_exact_and_better_than_chance() -> None:
    features = torch.randn(12_000, 6, generator=torch.Generator().manual_seed(0))
    exact = covering_radius(features, features[exact_coreset(features, 300, seed=0)])
    approximate = covering_radius(features, features[approximate_coreset(features, 300, seed=0)])
    chance = covering_radius(features, features[:300])
    assert exact <= approximate < 1.3 * exact
    assert approximate < 0.9 * chance


def test_covering_radius_is_a_distance() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    assert covering_radius(points, points[:1], chunk=2) == pytest.approx(5.0)
    assert covering_radius(points, points, chunk=2) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_projected_is_the_product_in_float32(kind: torch.dtype) -> None:
    features = torch.randn(20_000, 6, generator=torch.Generator().manual_seed(0)).to(kind)
    matrix = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    found = projected(features, matrix)  # three parts, the last of them shorter
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, features.float() @ matrix)


def test_projection_keeps_distances_on_average() -> None:
    features = torch.randn(200, 150, generator=torch.Generator().manual_seed(0))
    short = features @ projection(150, 64, seed=0)
    assert short.shape == (200, 64)
    ratio = torch.pdist(short) / torch.pdist(features)
    assert abs(float(ratio.mean()) - 1) < 0.05
    assert float(ratio.std()) < 0.15


@pytest.mark.parametrize("dimensions", [0, 4, 9])
def test_projection_to_no_fewer_dimensions_is_the_identity(dimensions: int) -> None:
    assert torch.equal(projection(4, dimensions, seed=0), torch.eye(4))

"""The memory bank: search, principal axes, patches left out."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.decomposition import PCA

from toolkit.methods.scorers.memory_bank import MemoryBank


def _random(seed: int, count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3, 99])
@pytest.mark.parametrize("count", [1, 1023, 1025])  # around the length of a chunk
@pytest.mark.parametrize("whitened", [False, True])
def test_distances_equal_all_distances(k: int, count: int, whitened: bool) -> None:
    features, queries = _random(0, 40, 5), _random(1, count, 5)
    matrix = _random(2, 5, 5) if whitened else None
    bank = MemoryBank(features, matrix, num_neighbors=k)
    if matrix is not None:
        features, queries, bank_queries = features @ matrix, queries @ matrix, queries
    else:
        bank_queries = queries
    apart = torch.cdist(queries.double(), features.double())
    expected = apart.topk(min(k, 40), largest=False).values.mean(dim=1).float()
    torch.testing.assert_close(bank.distances(bank_queries), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pca_dim", [1, 3, 7, 8, 9])  # 8 channels: from 8 on nothing is cut
def test_distances_along_axes_are_those_of_the_leading_principal_components(pca_dim: int) -> None:
    features = _random(0, 60, 8) * torch.arange(1, 9) + 5
    queries = _random(1, 30, 8) * 4 + 5
    pca = PCA(min(pca_dim, 8), svd_solver="full").fit(features.double().numpy())
    of_bank, of_queries = (torch.tensor(pca.transform(x.numpy())) for x in (features, queries))
    expected = torch.cdist(of_queries, of_bank).amin(dim=1).float()
    bank = MemoryBank(features, pca_dim=pca_dim)
    torch.testing.assert_close(bank.distances(queries), expected, rtol=1e-4, atol=1e-3)
    assert (bank.axes is None) == (pca_dim >= 8)


def test_whitened_patches_are_compared_in_all_dimensions() -> None:
    assert MemoryBank(_random(0, 60, 8), torch.eye(8), pca_dim=3).axes is None


def test_axes_lose_nothing_of_features_that_lie_in_few_directions() -> None:
    few = _random(0, 3, 8)
    features, queries = _random(1, 50, 3) @ few, _random(2, 20, 3) @ few
    expected = MemoryBank(features).distances(queries)
    torch.testing.assert_close(MemoryBank(features, pca_dim=3).distances(queries), expected)


def test_half_precision_features_are_compared_in_float32() -> None:
    features = _random(0, 50, 8).half()
    found = MemoryBank(features).distances(features.float())
    assert float(found.max()) < 0.01


def test_distance_to_itself_is_zero_far_from_the_origin() -> None:
    features = _random(0, 30, 8) + 1000  # where |x|² - 2xy + |y|² has no digits left
    assert float(MemoryBank(features).distances(features[:5]).max()) < 0.01


def test_a_query_that_is_not_a_number_does_not_pass_for_good() -> None:
    found = MemoryBank(_random(0, 20, 4)).distances(torch.full((1, 4), math.nan))
    assert not bool(found.isfinite().all())


def test_patches_of_an_image_itself_do_not_count() -> None:
    features, owners = _random(0, 40, 5), torch.arange(40) % 4
    bank = MemoryBank(features, owners=owners)
    expected = torch.cdist(features, features[owners != 2]).amin(dim=1)
    torch.testing.assert_close(bank.distances(features, without=2), expected, rtol=1e-3, atol=1e-2)


def test_the_patches_of_the_only_image_count() -> None:
    features = _random(0, 40, 5)
    bank = MemoryBank(features, owners=torch.zeros(40))
    assert float(bank.distances(features, without=0).max()) < 0.01


@pytest.mark.parametrize("without", [None, 2])
def test_nearest_patches_are_those_of_all_distances(without: int | None) -> None:
    features, queries, owners = _random(0, 40, 5), _random(1, 700, 5), torch.arange(40) % 4
    bank = MemoryBank(features, _random(2, 5, 5), owners=owners)
    distances, numbers = bank.nearest(queries, without=without)
    torch.testing.assert_close(distances, bank.distances(queries, without=without))
    if without is not None:
        assert not bool((owners[numbers] == without).any())


def test_weights_are_the_mean_squares_around_each_patch() -> None:
    """Around the second patch good ones are three times as far as around the first."""
    bank = MemoryBank(torch.tensor([[0.0, 0.0], [100.0, 0.0], [200.0, 0.0]]))
    near, far = torch.full((5000,), 1.0), torch.full((5000,), 3.0)
    numbers = torch.arange(2).repeat_interleave(5000)
    weighted = bank.weighted(numbers, torch.cat([near, far]))
    assert weighted.weights is not None
    torch.testing.assert_close(
        weighted.weights, torch.tensor([1.0 - 4.0, 9.0 - 4.0, 0.0]) / 2, atol=0.02, rtol=0
    )
    queries = torch.tensor([[0.0, 4.0], [100.0, 4.0], [200.0, 4.0], [100.0, 0.0]])
    expected = torch.tensor([16.0 + 1.5, 16.0 - 2.5, 16.0, 0.0]).sqrt()
    torch.testing.assert_close(weighted.distances(queries), expected, atol=0.01, rtol=0)
    assert bank.weights is None, "the other bank stays"


def test_weights_of_equal_distances_change_nothing() -> None:
    features, queries = _random(0, 40, 5), _random(1, 60, 5)
    bank = MemoryBank(features, pca_dim=3)
    same = bank.weighted(torch.arange(40), torch.full((40,), 2.0))
    torch.testing.assert_close(same.distances(queries), bank.distances(queries))


def test_further_patches_bring_nothing_further_away_with_weights_either() -> None:
    features, queries, owners = _random(0, 40, 5), _random(1, 60, 5), torch.arange(40)
    bank = MemoryBank(features, owners=owners)
    weighted = bank.weighted(torch.arange(40), _random(3, 40, 1)[:, 0].abs() + 1)
    longer = weighted.with_rows(_random(4, 20, 5), torch.arange(20))
    assert bool((longer.distances(queries) <= weighted.distances(queries) + 1e-5).all())


def test_weights_are_saved() -> None:
    bank = MemoryBank(_random(0, 40, 5)).weighted(torch.arange(40), _random(3, 40, 1)[:, 0].abs())
    state = bank.state()
    again = MemoryBank(state["features"], weights=state["weights"])
    queries = _random(1, 60, 5)
    assert torch.equal(again.distances(queries), bank.distances(queries))

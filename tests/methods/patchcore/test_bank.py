"""The memory bank: search, reweighting, file."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.decomposition import PCA

from toolkit.errors import WeightsError
from toolkit.methods.patchcore.bank import BankMeta, MemoryBank

META = BankMeta(
    backbone="resnet18",
    layers=("layer2", "layer3"),
    weights="none",
    weights_source="random numbers",
    fingerprint="0123456789ab",
    image_size=64,
    patch_size=3,
    stride=8,
    seen=100,
    kept=50,
    radius=0.5,
)


def _bank(features: torch.Tensor) -> MemoryBank:
    return MemoryBank(features, torch.eye(features.shape[1]), META)


@pytest.mark.parametrize("k", [1, 3, 99])
@pytest.mark.parametrize("count", [1, 511, 512, 1025])  # around the length of a chunk
def test_distances_equal_all_distances(k: int, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 5, generator=generator)
    queries = torch.randn(count, 5, generator=generator)
    expected = torch.cdist(queries, features).topk(min(k, 40), largest=False).values.mean(dim=1)
    torch.testing.assert_close(_bank(features).distances(queries, k), expected)


def _reduced(features: torch.Tensor, dimensions: int) -> MemoryBank:
    meta = replace(META, dimensions=dimensions)
    return MemoryBank(features, torch.eye(features.shape[1]), meta)


@pytest.mark.parametrize("dimensions", [1, 3, 7, 8, 9])  # 8 channels: from 8 on nothing is cut
def test_distances_along_axes_are_those_of_the_leading_principal_components(
    dimensions: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 8, generator=generator) * torch.arange(1, 9) + 5
    queries = torch.randn(30, 8, generator=generator) * 4 + 5
    pca = PCA(min(dimensions, 8), svd_solver="full").fit(features.double().numpy())
    of_bank, of_queries = (torch.tensor(pca.transform(x.numpy())) for x in (features, queries))
    expected = torch.cdist(of_queries, of_bank).amin(dim=1).float()
    bank = _reduced(features, dimensions)
    torch.testing.assert_close(bank.distances(queries), expected, rtol=1e-4, atol=1e-3)
    assert (bank.axes is None) == (dimensions >= 8)


def test_axes_lose_nothing_of_features_that_lie_in_few_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(3, 8, generator=generator)
    features = torch.randn(50, 3, generator=generator) @ few
    queries = torch.randn(20, 3, generator=generator) @ few
    expected = _bank(features).distances(queries)
    torch.testing.assert_close(_reduced(features, 3).distances(queries), expected)


def test_dimensions_come_back_from_the_file(tmp_path: Path) -> None:
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    bank = _reduced(features, 2)
    bank.save(tmp_path)
    loaded = MemoryBank.load(tmp_path)
    assert loaded.meta.dimensions == 2
    assert torch.equal(loaded.distances(features + 1), bank.distances(features + 1))


def test_nearest_equals_all_distances() -> None:
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    distances, indices = _bank(features).nearest(features[7] + 0.01, 3)
    expected = torch.cdist(features[7:8] + 0.01, features)[0].topk(3, largest=False)
    assert torch.equal(indices, expected.indices)
    torch.testing.assert_close(distances, expected.values)


def test_distance_to_itself_is_zero_far_from_the_origin() -> None:
    features = torch.randn(30, 8) + 1000  # where |x|² - 2xy + |y|² has no digits left
    assert float(_bank(features).distances(features[:5]).max()) < 0.01


def test_reweighting_is_equation_7() -> None:
    bank = _bank(torch.tensor([[0.0], [1.0], [2.0], [50.0]]))
    # Nearest to -1 is 0; with 3 neighbours of it (0, 1, 2) the distances are 1, 2, 3.
    weight = 1 - math.exp(1) / (math.exp(1) + math.exp(2) + math.exp(3))
    assert bank.reweighted(torch.tensor([-1.0]), 3) == pytest.approx(weight * 1.0, rel=1e-5)


@pytest.mark.parametrize("neighbours", [0, 1])
def test_no_reweighting_leaves_the_distance(neighbours: int) -> None:
    bank = _bank(torch.tensor([[0.0], [1.0]]))
    assert bank.reweighted(torch.tensor([3.0]), neighbours) == 2.0


def test_reweighting_of_huge_distances_is_finite() -> None:
    bank = _bank(torch.tensor([[0.0], [1.0], [2.0]]))
    assert math.isfinite(bank.reweighted(torch.tensor([-1e4]), 9))


def test_round_trip(tmp_path: Path) -> None:
    bank = _bank(torch.randn(6, 3))
    bank.save(tmp_path)
    again = MemoryBank.load(tmp_path)
    assert torch.equal(again.features, bank.features)
    assert torch.equal(again.whitening, bank.whitening)
    assert again.meta == META
    assert {f.name for f in tmp_path.iterdir()} == {"bank.safetensors", "bank.json"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bank.safetensors", b""),  # cut short
        ("bank.safetensors", None),  # missing
        ("bank.json", None),
        ("bank.json", b'{"schema": 99}'),  # of another version
        ("bank.json", b'{"schema": 1}'),  # incomplete
        ("bank.json", b"[]"),  # something else
    ],
)
def test_damaged_bank_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    _bank(torch.randn(6, 3)).save(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=r"bank\.(safetensors|json).*train"):
        MemoryBank.load(tmp_path)

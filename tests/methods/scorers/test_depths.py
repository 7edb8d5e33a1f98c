"""Depths: layers scored apart and added, and the moments of places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolkit.methods.features.backbone import build_backbone
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.scorers.depths import Depth, DepthBank, DepthBanks, Places, depths_of
from toolkit.methods.scorers.memory_bank import MemoryBank


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_places_hold_mean_and_variance_and_give_an_image_back() -> None:
    images = _random(0, 7, 12, 3) * 2 + 100
    places = Places.none(images[0])
    for one in images:
        places = places.with_image(one)
    torch.testing.assert_close(places.mean, images.mean(dim=0))
    torch.testing.assert_close(places.squares / 6, images.var(dim=0), rtol=1e-3, atol=1e-3)
    without = places.with_image(images[3], -1)
    others = torch.cat([images[:3], images[4:]])
    assert without.count == 6
    torch.testing.assert_close(without.mean, others.mean(dim=0))
    torch.testing.assert_close(without.squares / 5, others.var(dim=0), rtol=1e-2, atol=1e-2)


def test_distance_from_a_place_is_in_standard_deviations() -> None:
    places = Places(9, torch.zeros(4, 2), torch.full((4, 2), 8.0))  # variance 1, and 1 is added
    found = places.distances(torch.tensor([[0.0, 0], [2, 2], [2, 0], [20, 20]]))
    torch.testing.assert_close(
        found, torch.tensor([0.0, 2, 1, 10 * 2**0.5]) / torch.tensor([1, 2**0.5, 1, 1])
    )


@pytest.mark.parametrize(
    ("backbone", "layers", "stride", "expected"),
    [
        ("resnet18", ("layer2", "layer3"), 8, [((128,), 1), ((256,), 2)]),
        ("resnet18", ("layer2",), 8, [((128,), 1)]),
        ("resnet18", ("layer3",), 8, [((256,), 1)]),
        (
            "resnet18",
            ("layer1", "layer2", "layer3", "layer4"),
            8,
            [((64, 128), 1), ((256, 512), 2)],
        ),
        ("resnet18", ("layer3", "layer2"), 8, [((256, 128), 1)]),  # not from fine to coarse
    ],
)
def test_layers_as_fine_as_the_grid_and_coarser_ones(
    backbone: str, layers: tuple[str, ...], stride: int, expected: list[tuple[tuple[int, ...], int]]
) -> None:
    network = build_backbone(backbone, weights="none", layers=layers)
    extractor = FeatureExtractor(network, image_size=64, stride=stride)
    assert [(one.channels, one.pool) for one in depths_of(extractor)] == expected


def test_scores_are_the_sum_of_scaled_distances_and_deep_ones_are_capped() -> None:
    grid_hw, patches = (4, 6), _random(1, 24, 5)
    fine, deep = Depth((2,), 0, 1), Depth((3,), 2, 2)
    banks = [
        DepthBank(fine, MemoryBank(_random(2, 9, 2)), None, torch.tensor([[1.0], [0.5]])),
        DepthBank(deep, MemoryBank(_random(3, 9, 3) + 3), None, torch.tensor([[0.1], [0.2]])),
    ]
    found = DepthBanks(banks, grid_hw)(patches)[0].reshape(grid_hw)
    shallow = torch.cdist(patches[:, :2], banks[0].bank.features).amin(dim=1) / 0.5
    pooled = patches[:, 2:].reshape(2, 2, 3, 2, 3).mean(dim=(1, 3)).reshape(6, 3)
    apart = torch.cdist(pooled, banks[1].bank.features).amin(dim=1)
    assert float(apart.min()) > 0.1 + 4 * 0.2
    # All deep distances are beyond the cap: 0.1 / 0.2 + 4.
    np.testing.assert_allclose(found, shallow.reshape(grid_hw) + 4.5, rtol=1e-4)


@pytest.mark.parametrize("image_hw", [(64, 64), (96, 64), (72, 72)])
def test_layers_apart_give_the_features_of_one_grid(image_hw: tuple[int, int]) -> None:
    network = build_backbone("resnet18", weights="none", layers=("layer1", "layer2", "layer4"))
    extractor = FeatureExtractor(network, image_size=64, input_hw=image_hw, stride=8)
    image = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), np.uint8)
    layers = extractor.averaged(extractor.layer_maps(image))
    patches, start = extractor(image), 0
    for depth in depths_of(extractor):
        end = start + len(depth.channels)
        direct = depth.grid_of_layers(layers[start:end], extractor.grid_hw)
        assert torch.allclose(direct, depth.grid(patches, extractor.grid_hw), atol=1e-4)
        start = end

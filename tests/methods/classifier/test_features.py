"""Pooled layers, standardized features, the cache of features, Grad-CAM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from toolkit.d4 import ALL
from toolkit.errors import ConfigError
from toolkit.home import cache_dir
from toolkit.methods.classifier.data import ImageSet, frozen_features
from toolkit.methods.classifier.network import (
    ClassificationNetwork,
    Standardize,
    build_network,
)
from toolkit.methods.classifier.report import grad_cam, last_map


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, 32, 32), generator=generator).to(torch.uint8)


@pytest.mark.parametrize(
    ("network", "layers", "features"),
    [
        ("resnet18", ("layer2", "layer4"), 2 * (128 + 512)),
        ("mobilenetv3_small_050", ("blocks.2",), 2 * 24),
    ],
)
def test_pooled_layers_are_means_and_maxima_of_the_maps(
    network: str, layers: tuple[str, ...], features: int, images: torch.Tensor
) -> None:
    torch.manual_seed(0)
    whole, _ = build_network(network, 2)
    pooled, _ = build_network(network, 2, pooled_layers=layers)
    cut = pooled.backbone.maps
    cut.load_state_dict({k: whole.backbone.state_dict()[k] for k in cut.state_dict()})  # type: ignore[union-attr, operator]
    maps: dict[str, torch.Tensor] = {}
    modules = dict(whole.backbone.named_modules())
    for name in layers:
        modules[name].register_forward_hook(
            lambda _m, _i, output, name=name: maps.__setitem__(name, output)
        )
    inputs = whole.normalize(images.float() / 255)
    with torch.no_grad():
        whole.eval()(inputs)
        found = pooled.eval().backbone(inputs)
    expected = [pool for n in layers for pool in (maps[n].mean((2, 3)), maps[n].amax((2, 3)))]
    assert found.shape == (3, features)
    torch.testing.assert_close(found, torch.cat(expected, dim=1))
    every = {name.removeprefix("backbone.") for name, _ in pooled.named_parameters()}
    assert pooled.last_block
    assert pooled.last_block < every
    assert all(n.startswith(f"maps.{layers[-1]}.") for n in pooled.last_block)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("layer5", r"layer5: resnet18 has no such module; did you mean 'layer\d'"),
        ("avgpol", "did you mean 'avgpool'"),
        ("zzz", r"has no such module; see the names"),  # a thousand names help nobody
    ],
)
def test_an_unknown_layer_is_refused(layer: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network("resnet18", 2, pooled_layers=(layer,))


def test_standardized_features_have_mean_0_and_deviation_1() -> None:
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 7 + 3
    features[:, 3] = 5.0  # constant, so not scaled up
    layer = Standardize(4)
    assert torch.equal(layer(features), features)
    layer.measure(features)
    found = layer(features)
    torch.testing.assert_close(found.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0)[:3], torch.ones(3))
    assert float(found[:, 3].abs().max()) < 1e-3


@pytest.fixture
def small() -> ClassificationNetwork:
    torch.manual_seed(1)
    return build_network("mobilenetv3_small_050", 2, pooled_layers=("blocks.2",))[0].eval()


def test_features_are_computed_once(
    small: ClassificationNetwork, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    transforms = ALL[:2]

    def features(part: ImageSet, count: int = 2) -> torch.Tensor:
        return frozen_features(small, part, transforms=ALL[:count], network="small", title="")

    part = ImageSet(images, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"))
    first = features(part)
    assert first.shape == (2, 3, 48)
    turned = transforms[1].apply_tensor(images).float() / 255
    with torch.no_grad():
        direct = small.backbone(small.normalize(turned))
    torch.testing.assert_close(first[1], direct, atol=1e-5, rtol=1e-4)

    computed: list[int] = []
    forward = small.backbone.forward

    def counting(batch: torch.Tensor) -> torch.Tensor:
        computed.append(len(batch))
        found: torch.Tensor = forward(batch)
        return found

    monkeypatch.setattr(small.backbone, "forward", counting)
    assert torch.equal(first, features(part))
    assert computed == []
    # a file cut short, an image that was not there, and one that is not kept
    file = next(cache_dir().rglob("b-0.npy"))
    file.write_bytes(file.read_bytes()[:100])
    more = ImageSet(images[[1, 0, 2]], part.labels, ("b", "new", ""))
    features(more, 1)
    features(more, 1)
    assert len(computed) == 4
    # other tensors, other features
    nn.init.normal_(next(small.backbone.parameters()))
    features(part, 1)
    assert len(computed) == 7


def test_features_of_a_trained_backbone_are_not_kept(
    small: ClassificationNetwork, images: torch.Tensor
) -> None:
    part = ImageSet(images, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"))
    frozen_features(small, part, transforms=ALL[:1], title="")
    assert not list(cache_dir().rglob("*.npy"))


class _Corners(nn.Module):
    """Two maps: one sees the upper left corner, the other the lower right."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.convolution(images)
        half = torch.zeros_like(maps)
        half[:, 0, :4, :4] = 1
        half[:, 1, 4:, 4:] = 1
        return (maps * half).mean((2, 3))


def test_grad_cam_shows_what_speaks_for_the_class() -> None:
    model = ClassificationNetwork(
        _Corners(), features=2, classes=2, last_block=(), mean=(0, 0, 0), std=(1, 1, 1)
    ).eval()
    nn.init.ones_(model.backbone.convolution.weight)  # type: ignore[union-attr, arg-type]
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(2))
    image = torch.zeros(1, 3, 8, 8)
    image[:, :, 1, 2] = 1  # in the corner of class 0
    assert last_map(model, image) is model.backbone.convolution
    found = grad_cam(model, image, 0)
    assert np.unravel_index(found.argmax(), found.shape) == (1, 2)
    assert found.max() == 1
    assert (found > 0).sum() == 1


def test_grad_cam_of_a_resnet_has_the_grid_of_its_last_block() -> None:
    torch.manual_seed(0)
    model = build_network("resnet18", 3)[0].eval()
    found = grad_cam(model, torch.rand(1, 3, 96, 96), 1)
    assert found.shape == (3, 3)
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1

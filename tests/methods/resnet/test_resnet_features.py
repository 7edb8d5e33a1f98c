"""Pooled layers, standardised features, views, the cache of features, Grad-CAM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from toolkit.errors import ConfigError
from toolkit.home import cache_dir
from toolkit.methods.resnet.frozen import (
    Part,
    averaged_logits,
    frozen_features,
    normalised,
    viewed,
)
from toolkit.methods.resnet.gradcam import grad_cam, last_map
from toolkit.methods.resnet.network import Classifier, build_classifier
from toolkit.methods.resnet.pooling import Standardise
from toolkit.methods.resnet.pretrained import load_pretrained


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
    whole = build_classifier(network, 2)
    pooled = build_classifier(network, 2, pooled_layers=layers)
    pooled.network.load_state_dict(
        {k: v for k, v in whole.network.state_dict().items() if k in pooled.network.state_dict()}
    )
    maps: dict[str, torch.Tensor] = {}
    modules = dict(whole.network.named_modules())
    for name in layers:
        modules[name].register_forward_hook(
            lambda _m, _i, output, name=name: maps.__setitem__(name, output)
        )
    inputs = normalised(images.float() / 255, whole, "cpu")
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
        ("layer5", r"pooled_layers=layer5: resnet18 has no such module; did you mean 'layer\d'"),
        ("avgpol", "did you mean 'avgpool'"),
        ("zzz", r"has no such module; such as layer4"),  # a thousand names help nobody
    ],
)
def test_an_unknown_layer_is_refused(layer: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_classifier("resnet18", 2, pooled_layers=(layer,))


def test_pretrained_weights_reach_a_cut_network() -> None:
    pooled = build_classifier("tf_efficientnet_lite0", 2, pooled_layers=("blocks.2",))
    before = pooled.network.state_dict()["conv_stem.weight"].clone()
    origin = load_pretrained(pooled, network="tf_efficientnet_lite0", weights="auto")
    assert origin.weights == "ImageNet-1k"
    assert not torch.equal(pooled.network.state_dict()["conv_stem.weight"], before)


def test_standardised_features_have_mean_0_and_deviation_1() -> None:
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 7 + 3
    features[:, 3] = 5.0  # says nothing, and is not blown up
    layer = Standardise(4)
    assert torch.equal(layer(features), features)
    layer.measure(features)
    found = layer(features)
    torch.testing.assert_close(found.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0)[:3], torch.ones(3))
    assert float(found[:, 3].abs().max()) < 1e-3


def test_eight_views_are_all_different_and_keep_the_pixels() -> None:
    image = torch.arange(9).reshape(1, 1, 3, 3)
    views = [viewed(image, view) for view in range(8)]
    assert torch.equal(views[0], image)
    assert len({tuple(v.flatten().tolist()) for v in views}) == 8
    assert all(sorted(v.flatten().tolist()) == list(range(9)) for v in views)
    for view in range(4):
        assert torch.equal(views[view], torch.rot90(image, view, (2, 3)))
        assert torch.equal(views[view + 4], views[view].flip(3))


@pytest.fixture
def small() -> Classifier:
    torch.manual_seed(1)
    return build_classifier("mobilenetv3_small_050", 2, pooled_layers=("blocks.2",)).eval()


def test_predictions_are_averaged_over_views(small: Classifier, images: torch.Tensor) -> None:
    with torch.no_grad():
        each = [averaged_logits(small, viewed(images, v), 1, "cpu") for v in range(4)]
        found = averaged_logits(small, images, 4, "cpu")
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    assert not torch.allclose(each[0], each[1])


def test_features_are_computed_once(
    small: Classifier, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part(images, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"))
    first = frozen_features(small, part, views=2, device="cpu", name="small", title="")
    assert first.shape == (2, 3, 48)
    with torch.no_grad():
        direct = small.backbone(normalised(viewed(images, 1).float() / 255, small, "cpu"))
    torch.testing.assert_close(first[1], direct)

    computed: list[int] = []
    forward = small.backbone.forward

    def counting(batch: torch.Tensor) -> torch.Tensor:
        computed.append(len(batch))
        found: torch.Tensor = forward(batch)
        return found

    monkeypatch.setattr(small.backbone, "forward", counting)
    again = frozen_features(small, part, views=2, device="cpu", name="small", title="")
    assert computed == []
    assert torch.equal(first, again)
    # a file cut short, and an image that was not there
    file = next(cache_dir().rglob("b-0.npy"))
    file.write_bytes(file.read_bytes()[:100])
    more = Part(images[[1, 0]], part.labels[:2], ("b", "new"))
    frozen_features(small, more, views=1, device="cpu", name="small", title="")
    assert computed == [2]
    # other tensors, other features
    nn.init.normal_(next(small.backbone.parameters()))
    frozen_features(small, part, views=1, device="cpu", name="small", title="")
    assert computed == [2, 3]


def test_features_of_a_trained_backbone_are_not_kept(
    small: Classifier, images: torch.Tensor
) -> None:
    part = Part(images, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"))
    frozen_features(small, part, views=1, device="cpu", title="")
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
    model = Classifier(
        _Corners(), features=2, classes=2, last_block=(), mean=(0, 0, 0), std=(1, 1, 1)
    ).eval()
    nn.init.ones_(model.backbone.convolution.weight)  # type: ignore[union-attr, arg-type]
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(2))
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[:, :, 1, 2] = 255  # in the corner of class 0
    assert last_map(model, image.float()) is model.backbone.convolution
    found = grad_cam(model, image, 0, "cpu")
    assert np.unravel_index(found.argmax(), found.shape) == (1, 2)
    assert found.max() == 1
    assert (found > 0).sum() == 1


def test_grad_cam_of_a_resnet_has_the_grid_of_its_last_block() -> None:
    torch.manual_seed(0)
    model = build_classifier("resnet18", 3).eval()
    image = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    found = grad_cam(model, image, 1, "cpu")
    assert found.shape == (3, 3)
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1

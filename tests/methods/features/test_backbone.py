"""Backbones: cutting, folding, weights; and the patch grid made of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.errors import ConfigError, WeightsError
from toolkit.methods.features.backbone import (
    build_backbone,
    create_network,
    fold_batch_norms,
    load_network_weights,
)
from toolkit.methods.features.extractor import FeatureExtractor, input_shape


@pytest.mark.parametrize(
    ("name", "layers", "shapes"),
    [
        ("tf_efficientnet_lite0", ("blocks.2", "blocks.4"), [(40, 8, 8), (112, 4, 4)]),
        ("tf_efficientnet_lite0", ("2", "3"), [(40, 8, 8), (112, 4, 4)]),  # timm's stages
        ("resnet18", ("layer3", "layer1"), [(256, 4, 4), (64, 16, 16)]),  # in the order asked for
        ("mobilenetv3_small_050", ("1",), [(8, 16, 16)]),  # timm only
    ],
)
def test_layers_and_shapes(
    name: str, layers: tuple[str, ...], shapes: list[tuple[int, int, int]]
) -> None:
    backbone = build_backbone(name, weights="none", layers=layers)
    assert backbone.layers == layers
    assert [tuple(m.shape[1:]) for m in backbone.feature_maps(torch.zeros(1, 3, 64, 64))] == shapes


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_folding_changes_rounding_only(name: str) -> None:
    import timm
    from timm.models import create_feature_extractor

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # fresh ones do nothing
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    last = "blocks.4" if "lite0" in name else "layer3"
    graph = create_feature_extractor(model, [last])
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = graph(images)[last].clone()
        folded = fold_batch_norms(graph)
        after = graph(images)[last]
    assert folded > 10
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


def test_random_weights_depend_on_the_seed_alone() -> None:
    global_state = torch.get_rng_state()
    first, second, other = (
        build_backbone("resnet18", weights="none", seed=seed).fingerprint for seed in (1, 1, 2)
    )
    assert first == second != other
    assert torch.equal(torch.get_rng_state(), global_state)


def test_lite0_comes_with_its_weights() -> None:
    backbone = build_backbone("tf_efficientnet_lite0")
    assert backbone.weights.name == "tf_efficientnet_lite0"
    assert "Apache-2.0" in backbone.weights.source
    assert (
        backbone.fingerprint != build_backbone("tf_efficientnet_lite0", weights="none").fingerprint
    )
    # (x − 127) / 128 of values from 0 to 255.
    assert backbone.mean[0] * 255 == pytest.approx(127)
    assert backbone.std[0] * 255 == pytest.approx(128)


def test_weights_from_a_file(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(3)
    model = torchvision.models.resnet18(num_classes=7)  # the head is not needed and may differ
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    backbone = build_backbone("resnet18", weights=str(tmp_path / "mine.pth"))
    assert backbone.weights.name == "mine.pth"
    assert "mine.pth" in backbone.weights.source
    assert backbone.fingerprint != build_backbone("resnet18", weights="none").fingerprint


def test_weights_of_another_network(tmp_path: Path) -> None:
    import torchvision

    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    with pytest.raises(WeightsError, match=r"r18\.pth"):
        build_backbone("resnet50", weights=str(tmp_path / "r18.pth"))


@pytest.mark.parametrize(
    ("name", "layers", "words"),
    [
        ("resnett18", (), "did you mean"),
        ("zzzzzzzz", (), "list_models"),
        ("resnet18", ("layer9",), "layer9.*did you mean"),
        ("resnet18", ("2", "3"), "name modules"),  # torchvision has no numbered stages
        ("tf_efficientnet_lite0", ("17",), "no such stages"),
    ],
)
def test_bad_names(name: str, layers: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_backbone(name, weights="none", layers=layers)


@pytest.mark.parametrize(
    ("stride", "grid"),
    [
        (0, (16, 16)),  # the finest layer's
        (8, (8, 8)),
        (5, (13, 13)),  # does not divide the image: 64 / 5, rounded up
    ],
)
def test_grid(stride: int, grid: tuple[int, int]) -> None:
    backbone = build_backbone("resnet18", weights="none", layers=("layer1", "layer2"))
    extractor = FeatureExtractor(backbone, image_size=64, stride=stride)
    features = extractor(np.zeros((50, 70, 3), np.uint8))
    assert extractor.grid_hw == grid
    assert extractor.layer_channels == (64, 128)
    assert features.shape == (grid[0] * grid[1], 192)


def test_rows_follow_the_image() -> None:
    backbone = build_backbone("resnet18", weights="none", layers=("layer1",))
    extractor = FeatureExtractor(backbone, image_size=64, patch_size=1)
    plain = np.full((64, 64, 3), 90, np.uint8)
    spotted = plain.copy()
    spotted[8:12, 48:52] = 255
    change = (extractor(spotted) - extractor(plain)).abs().sum(dim=1).view(extractor.grid_hw)
    row, column = divmod(int(change.argmax()), extractor.grid_hw[1])
    assert abs(row - 2) <= 1
    assert abs(column - 12) <= 1


def test_a_transformer_by_its_stages() -> None:
    backbone = build_backbone("vit_tiny_patch16_224", weights="none", layers=("5", "8"))
    extractor = FeatureExtractor(backbone, image_size=64)
    assert extractor.grid_hw == (4, 4)
    assert extractor.layer_channels == (192, 192)


@pytest.mark.parametrize(
    ("name", "side", "layers", "channels"),
    [
        # patches of 14 pixels: no stride of 8 or 16, but all blocks have the same
        ("vit_small_patch14_dinov2", 56, ("6", "9"), (384, 384)),
        ("wide_resnet50_2", 64, ("layer2", "layer3"), (512, 1024)),
    ],
)
def test_default_layers_of_a_family(
    name: str, side: int, layers: tuple[str, ...], channels: tuple[int, ...]
) -> None:
    backbone = build_backbone(name, weights="none")
    assert backbone.layers == layers
    assert FeatureExtractor(backbone, image_size=side).layer_channels == channels


class _ChannelsLast(torch.nn.Module):
    """Gives the image as Swin gives its maps: rows, columns, channels."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images.permute(0, 2, 3, 1)[:, ::4, ::4], images[:, :, ::4, ::4]]


def test_channels_last_maps_are_turned() -> None:
    plain = build_backbone("resnet18", weights="none")
    backbone = dataclasses.replace(plain, layers=("a", "b"), network=_ChannelsLast())
    extractor = FeatureExtractor(backbone, image_size=32, patch_size=1)
    assert extractor.grid_hw == (8, 8)
    assert extractor.layer_channels == (3, 3)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    rows = extractor(image)
    assert torch.equal(rows[:, :3], rows[:, 3:])


class _Oblong(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images[:, :, ::4]]


def test_maps_that_are_not_square_are_refused() -> None:
    plain = build_backbone("resnet18", weights="none")
    backbone = dataclasses.replace(plain, layers=("odd",), network=_Oblong())
    with pytest.raises(ConfigError, match="layer odd of resnet18: gives"):
        FeatureExtractor(backbone, image_size=32)


def test_pixels_of_the_table_equal_the_formula() -> None:
    plain = build_backbone("resnet18", weights="none")
    backbone = dataclasses.replace(plain, layers=("a", "b"), network=_ChannelsLast())
    extractor = FeatureExtractor(backbone, image_size=32, patch_size=1)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = extractor.normalised(pixels)[0, :, ::4, ::4].flatten(1).T
    assert torch.equal(extractor(image)[:, :3], expected)


def test_image_size_that_does_not_fit() -> None:
    backbone = build_backbone("vit_tiny_patch16_224", weights="none", layers=("5",))
    with pytest.raises(ConfigError, match="image-size"):
        FeatureExtractor(backbone, image_size=50)


def test_layer_that_is_no_map() -> None:
    backbone = build_backbone("resnet18", weights="none", layers=("fc",))
    with pytest.raises(ConfigError, match="not a feature map"):
        FeatureExtractor(backbone, image_size=64)


@pytest.mark.parametrize("setting", ["pretrained", "tf_efficientnet_lite0"])
def test_a_network_takes_pretrained_weights_without_its_head(setting: str) -> None:
    model, mean, _ = create_network("tf_efficientnet_lite0")
    model.reset_classifier(0)
    resolved = load_network_weights(model, "tf_efficientnet_lite0", setting)
    assert resolved.name == "tf_efficientnet_lite0"
    assert mean == pytest.approx((127 / 255,) * 3)
    whole = build_backbone("tf_efficientnet_lite0", layers=("0",)).network
    assert torch.equal(model.bn1.running_mean, whole.state_dict()["bn1.running_mean"])


@pytest.mark.parametrize(("setting", "name"), [("none", "none"), ("auto", "none")])
def test_weights_out_of_reach(setting: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **words: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("timm.models.load_pretrained", fail)
    model, _, _ = create_network("mobilenetv3_small_050")
    resolved = load_network_weights(model, "mobilenetv3_small_050", setting)
    assert resolved.name == name
    assert ("no route" in resolved.reason) == (setting == "auto")
    with pytest.raises(WeightsError, match=r"mobilenetv3_small_050: timm .* \(no route\)"):
        load_network_weights(model, "mobilenetv3_small_050")


@pytest.mark.parametrize(
    ("sizes", "image_size", "expected"),
    [
        ([(900, 900)], 320, (320, 320)),
        ([(1000, 1024)], 200, (200, 200)),  # nearly square; no multiple of 32 is forced on squares
        ([(500, 1000)], 320, (224, 448)),
        ([(1000, 500), (1000, 500), (300, 300)], 320, (448, 224)),  # the median
        ([(150, 150)], 320, (160, 160)),
        ([(30, 30)], 320, (128, 128)),
        ([(30, 30)], 64, (64, 64)),
        ([(100, 4000)], 320, (64, 2016)),
    ],
)
def test_input_shape_keeps_the_aspect_and_blows_nothing_up(
    sizes: list[tuple[int, int]], image_size: int, expected: tuple[int, int]
) -> None:
    assert input_shape(sizes, image_size) == expected


def test_a_rectangle_keeps_its_shape_in_the_grid() -> None:
    plain = build_backbone("resnet18", weights="none")
    backbone = dataclasses.replace(plain, layers=("a", "b"), network=_ChannelsLast())
    extractor = FeatureExtractor(backbone, image_size=96, input_hw=(64, 128), patch_size=1)
    assert extractor.grid_hw == (16, 32)
    image = np.random.default_rng(0).integers(0, 256, (200, 400, 3), dtype=np.uint8)
    pixels = torch.from_numpy(extractor.resized(image)).permute(2, 0, 1)[None].float()
    expected = extractor.normalised(pixels)[0, :, ::4, ::4].permute(1, 2, 0)
    grid = extractor(image).reshape(16, 32, 6)
    torch.testing.assert_close(grid, torch.cat([expected, expected], dim=2))

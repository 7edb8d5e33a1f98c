"""Networks and their pretrained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from toolkit.errors import ConfigError, WeightsError
from toolkit.methods.classifier.network import ClassificationNetwork, build_network
from toolkit.weights import resolve


@pytest.fixture(scope="module")
def resnet18() -> ClassificationNetwork:
    return build_network("resnet18", 3)[0]


@pytest.mark.parametrize(
    ("network", "first_of_block", "not_in_block"),
    [
        ("resnet18", "layer4.0.conv1.weight", "layer3.1.bn2.bias"),
        ("mobilenet_v2", "features.18.0.weight", "features.16.conv.0.0.weight"),
        ("tf_efficientnet_lite0", "blocks.6.0.conv_pw.weight", "blocks.5.3.bn3.bias"),
        ("convnext_atto", "stages.3.downsample.0.weight", "stages.2.blocks.5.mlp.fc2.bias"),
    ],
)
def test_networks(network: str, first_of_block: str, not_in_block: str) -> None:
    model = build_network(network, 5)[0].eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert first_of_block in model.last_block
    assert not_in_block not in model.last_block
    every = {name for name, _ in model.named_parameters()}
    assert set(model.parameters_of("all")) == every
    assert set(model.parameters_of("head")) == {"head.weight", "head.bias"}
    assert model.last_block <= {name.removeprefix("backbone.") for name in every}


def test_an_unknown_network_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        build_network("resnet81", 2)


@pytest.mark.parametrize(
    ("layers", "batch_norm", "train_mode", "eval_mode"),
    [
        ("head", "train", [], ["bn1", "layer4.1.bn2"]),
        ("last-block", "train", ["layer4.1.bn2"], ["bn1", "layer3.1.bn2"]),
        ("all", "train", ["bn1", "layer4.1.bn2"], []),
        ("all", "frozen", [], ["bn1", "layer4.1.bn2"]),
    ],
)
def test_only_trained_layers_use_batch_statistics(
    resnet18: ClassificationNetwork,
    layers: str,
    batch_norm: str,
    train_mode: list[str],
    eval_mode: list[str],
) -> None:
    trained = resnet18.set_trainable(layers, batch_norm=batch_norm)
    modules = dict(resnet18.backbone.named_modules())
    assert all(modules[name].training for name in train_mode)
    assert not any(modules[name].training for name in eval_mode)
    assert {id(p) for p in trained} == {id(p) for p in resnet18.parameters() if p.requires_grad}


def test_batch_norm_with_children_is_trained_too() -> None:
    model, _ = build_network("tf_efficientnet_lite0", 2)
    batch_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    model.set_trainable("all", batch_norm="train")
    assert all(m.training for m in batch_norms)
    model.set_trainable("all", batch_norm="frozen")
    assert not any(m.training for m in batch_norms)


def test_a_network_without_a_linear_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="squeezenet1_1: has no linear head"):
        build_network("squeezenet1_1", 2)


def _state(tmp_path: Path, name: str = "mine.pth") -> tuple[Path, dict[str, torch.Tensor]]:
    """Write a state dict as torchvision saves it, with a head of other classes."""
    torch.manual_seed(7)
    state = build_network("resnet18", 9)[0].backbone.state_dict()
    torch.save(
        {**state, "fc.weight": torch.zeros(9, 512), "fc.bias": torch.zeros(9)},
        path := tmp_path / name,
    )
    return path, state


@pytest.mark.parametrize("layers", [(), ("layer2",)])
def test_weights_from_a_file(tmp_path: Path, layers: tuple[str, ...]) -> None:
    path, state = _state(tmp_path)
    model, weights = build_network("resnet18", 3, pooled_layers=layers, weights=str(path))
    assert weights.name == "mine.pth"
    found = {
        k.removeprefix("backbone.").removeprefix("maps."): v for k, v in model.state_dict().items()
    }
    assert torch.equal(found["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    assert model.head.weight.shape[0] == 3


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "text.safetensors"])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str) -> None:
    path, _ = _state(tmp_path, name)
    path.write_bytes(b"no tensors" if name.startswith("text") else path.read_bytes()[:5000])
    with pytest.raises(WeightsError) as error:
        build_network("resnet18", 3, weights=str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path, state = _state(tmp_path)
    del state["conv1.weight"]
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"mine\.pth: has no conv1\.weight"):
        build_network("resnet18", 3, weights=str(path))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> Path:
        raise WeightsError(f"weights/{name}.pth: put the file there (no connection)")

    monkeypatch.setattr(resolve, "fetch", unreachable)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("pretrained", "resnet50-v1.pth: put the file there"),
        ("resnet50-v2", "resnet50-v2.pth: put the file there"),
        ("auto:nonsense", "weights=auto:nonsense: not in the registry"),
        ("IMAGENET1K_V9", "no such file and not in the registry"),
    ],
)
def test_named_weights_that_cannot_be_had_are_an_error(weights: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        build_network("resnet50", 3, weights=weights)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("weights", "name"), [("auto", "v1"), ("auto:resnet50-v2", "v2")])
def test_auto_reports_that_it_starts_from_scratch(weights: str, name: str) -> None:
    _, resolved = build_network("resnet50", 3, weights=weights)
    assert resolved.name == "none"
    assert resolved.source.startswith("from scratch")
    assert f"resnet50-{name}.pth" in resolved.reason


def test_pretrained_weights_reach_a_cut_network() -> None:
    network, layers = "tf_efficientnet_lite0", ("blocks.2",)
    model, weights = build_network(network, 2, pooled_layers=layers, weights="pretrained")
    assert weights.name == network
    random, _ = build_network(network, 2, pooled_layers=layers)
    key = "backbone.maps.conv_stem.weight"
    assert not torch.equal(model.state_dict()[key], random.state_dict()[key])

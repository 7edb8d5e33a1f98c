"""Networks and their pretrained weights."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from toolkit.errors import ConfigError, WeightsError
from toolkit.methods.resnet import pretrained
from toolkit.methods.resnet.network import Classifier, build_classifier
from toolkit.methods.resnet.pretrained import load_pretrained


@pytest.fixture(scope="module")
def resnet18() -> Classifier:
    return build_classifier("resnet18", 3)


@pytest.mark.parametrize(
    ("network", "first_of_block", "not_in_block"),
    [
        ("resnet18", "layer4.0.conv1.weight", "layer3.1.bn2.bias"),
        ("mobilenet_v2", "features.17.conv.0.0.weight", "features.16.conv.0.0.weight"),
        ("tf_efficientnet_lite0", "blocks.6.0.conv_pw.weight", "blocks.5.3.bn3.bias"),
        ("convnext_atto", "stages.3.downsample.0.weight", "stages.2.blocks.5.mlp.fc2.bias"),
    ],
)
def test_networks(network: str, first_of_block: str, not_in_block: str) -> None:
    model = build_classifier(network, 5).eval()
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
        build_classifier("resnet81", 2)


@pytest.mark.parametrize(
    ("layers", "batch_norm", "train_mode", "eval_mode"),
    [
        ("head", "train", [], ["bn1", "layer4.1.bn2"]),
        ("last-block", "train", ["layer4.1.bn2"], ["bn1", "layer3.1.bn2"]),
        ("all", "train", ["bn1", "layer4.1.bn2"], []),
        ("all", "frozen", [], ["bn1", "layer4.1.bn2"]),
    ],
)
def test_only_learning_layers_use_batch_statistics(
    resnet18: Classifier,
    layers: str,
    batch_norm: str,
    train_mode: list[str],
    eval_mode: list[str],
) -> None:
    learning = resnet18.learn(layers, batch_norm=batch_norm)
    modules = dict(resnet18.backbone.named_modules())
    assert all(modules[name].training for name in train_mode)
    assert not any(modules[name].training for name in eval_mode)
    assert {id(p) for p in learning} == {id(p) for p in resnet18.parameters() if p.requires_grad}


def test_batch_normalisation_with_children_learns_too() -> None:
    model = build_classifier("tf_efficientnet_lite0", 2)
    batch_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    model.learn("all", batch_norm="train")
    assert all(m.training for m in batch_norms)
    model.learn("all", batch_norm="frozen")
    assert not any(m.training for m in batch_norms)


def _other(model: Classifier) -> Classifier:
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    return other


def test_weights_from_a_file(resnet18: Classifier, tmp_path: Path) -> None:
    source, model = _other(resnet18), copy.deepcopy(resnet18)
    path = tmp_path / "mine.pth"
    # as torchvision saves it, the old head included
    torch.save({**source.backbone.state_dict(), "fc.weight": torch.zeros(9, 512)}, path)
    head = model.head.weight.detach().clone()
    origin = load_pretrained(model, network="resnet18", weights=str(path))
    assert origin.weights == "mine.pth"
    assert torch.equal(model.backbone.conv1.weight, source.backbone.conv1.weight)  # type: ignore[union-attr, arg-type]
    assert torch.equal(model.head.weight, head)


def test_a_pickled_network_is_not_read(resnet18: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save(resnet18.head, path)
    with pytest.raises(WeightsError, match=r"whole\.pt: not a plain state dict"):
        load_pretrained(resnet18, network="resnet18", weights=str(path))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "weights of another network .* is missing"),
        ({"conv1.weight": torch.zeros(2, 2)}, r"conv1.weight is \(2, 2\), not \(64, 3, 7, 7\)"),
    ],
)
def test_weights_of_another_network_are_refused(
    resnet18: Classifier, tmp_path: Path, state: dict[str, torch.Tensor], message: str
) -> None:
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=message):
        load_pretrained(resnet18, network="resnet18", weights=str(tmp_path / "other.pth"))


def test_a_damaged_file_is_refused(resnet18: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save(resnet18.state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"cut\.pth: not a readable checkpoint"):
        load_pretrained(resnet18, network="resnet18", weights=str(path))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> Path:
        raise WeightsError(f"weights/{name}.pth: put the file there (no connection)")

    monkeypatch.setattr(pretrained, "fetch", unreachable)


@pytest.mark.usefixtures("offline")
class TestOffline:
    """Never silently from scratch."""

    def test_a_name_that_cannot_be_fetched_is_an_error(self, resnet18: Classifier) -> None:
        with pytest.raises(WeightsError, match="put the file there"):
            load_pretrained(resnet18, network="resnet18", weights="IMAGENET1K_V1")

    @pytest.mark.parametrize("weights", ["auto", "auto:IMAGENET1K_V1"])
    def test_auto_says_that_it_starts_from_scratch(
        self, resnet18: Classifier, weights: str
    ) -> None:
        before = resnet18.backbone.state_dict()["conv1.weight"].clone()
        origin = load_pretrained(resnet18, network="resnet18", weights=weights)
        assert origin.weights == "none"
        assert origin.source == "from scratch, IMAGENET1K_V1 out of reach"
        assert "no connection" in origin.reason
        assert torch.equal(resnet18.backbone.state_dict()["conv1.weight"], before)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ("IMAGENET1K_V2", "none are registered for resnet18 .*resnet50-v2"),  # lists what is
            ("IMAGENET1K_V9", "neither a file nor one of auto, none, IMAGENET1K_V1"),
            ("auto:nonsense", "neither a file nor one of auto"),
        ],
    )
    def test_an_unknown_name_is_an_error_with_the_list(
        self, resnet18: Classifier, weights: str, message: str
    ) -> None:
        with pytest.raises(WeightsError, match=message):
            load_pretrained(resnet18, network="resnet18", weights=weights)


def test_none_is_from_scratch(resnet18: Classifier) -> None:
    assert load_pretrained(resnet18, network="resnet18", weights="none").weights == "none"

"""Networks: which exist, what they start from, and how the head starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit import ultralytics_env
from toolkit.errors import ConfigError, WeightsError
from toolkit.methods.yolo import network


@pytest.fixture(autouse=True)
def _prepared() -> None:
    ultralytics_env.prepare()


def _detector(model: str, nc: int) -> Any:
    from ultralytics.nn.tasks import DetectionModel, WorldModel

    kind = WorldModel if network.is_world(model) else DetectionModel
    return kind(network.model_yaml(model), nc=nc, verbose=False)


@pytest.mark.parametrize(
    ("model", "head", "scale"),
    [
        ("yolo11n", "Detect", "n"),
        ("yolov8s", "Detect", "s"),
        ("yolov8s-worldv2", "WorldDetect", "s"),  # Ultralytics' own
        ("yolo11n-world", "WorldDetect", "n"),  # YOLO11 with our last line
        (
            "yolov8n-world",
            "WorldDetect",
            "n",
        ),  # there is no YOLO-World of size n to confuse it with
    ],
)
def test_known_networks(model: str, head: str, scale: str) -> None:
    layers = network.model_yaml(model)
    assert layers["head"][-1][2] == head
    assert layers["scale"] == scale


@pytest.mark.parametrize("model", ["yolo99n", "resnet18", "", "yolo11n-seg-world", "../yolo11n"])
def test_unknown_networks_are_refused(model: str) -> None:
    with pytest.raises(ConfigError, match="model="):
        network.model_yaml(model)


def test_from_scratch_needs_no_file() -> None:
    assert network.find_start("yolo11n", "none") is network.SCRATCH


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str) -> Path:
        raise WeightsError(f"weights/{name}.pt: put the file there (no network)")

    monkeypatch.setattr(network, "fetch", fetch)


def test_unreachable_weights_are_an_error_unless_auto(unreachable: None) -> None:
    with pytest.raises(WeightsError, match=r"yolo11n\.pt.*--weights none"):
        network.find_start("yolo11n", "pretrained")
    assert network.find_start("yolo11n", "auto") is network.SCRATCH
    with pytest.raises(WeightsError, match="no network"):  # asked for by name: auto does not apply
        network.find_start("yolo11n", "yolo11n")


def test_a_network_without_registered_weights_says_what_to_do(unreachable: None) -> None:
    with pytest.raises(WeightsError, match="no pretrained weights are registered for yolo11x"):
        network.find_start("yolo11x", "pretrained")


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("yolo11n", ["yolo11n"]),
        ("yolo11n-world", ["yolo11n"]),  # the YOLO beneath
        ("yolov8s-worldv2", ["yolov8s-worldv2", "yolov8s-warm-start"]),  # official first
    ],
)
def test_where_a_network_starts(
    model: str, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def fetch(name: str) -> Path:
        tried.append(name)
        if name != asked[-1]:
            raise WeightsError("not reachable")
        return Path(f"{name}.pt")

    monkeypatch.setattr(network, "fetch", fetch)
    start = network.find_start(model, "pretrained")
    assert tried == asked
    assert (start.name, start.path) == (asked[-1], Path(f"{asked[-1]}.pt"))


def test_the_contrastive_head_starts_at_the_rate_of_objects() -> None:
    world = _detector("yolo11n-world", nc=3)
    network.start_contrastive_head(world)
    for contrast, stride in zip(world.model[-1].cv4, (8, 16, 32), strict=True):
        rate = torch.sigmoid(contrast.bias).item()
        assert rate * 3 * (640 / stride) ** 2 == pytest.approx(5, rel=0.05)  # all cells and classes


def test_a_head_with_batch_norm_keeps_its_start() -> None:
    world = _detector("yolov8s-worldv2", nc=3)
    network.start_contrastive_head(world)
    assert [c.bias.item() for c in world.model[-1].cv4] == [-10, -10, -10]


def test_untrained_layers_are_the_ends_of_the_class_branch() -> None:
    plain = _detector("yolo11n", nc=3)
    assert sum(p.numel() for p in network.untrained_parameters(plain)) == 3 * (64 * 3 + 3)
    world = _detector("yolo11n-world", nc=3)
    ours = {id(p) for p in network.untrained_parameters(world)}
    names = {n.split(".", 2)[2] for n, p in world.named_parameters() if id(p) in ours}
    assert {"cv3.0.2.weight", "cv3.0.2.bias", "cv4.0.bias", "cv4.0.logit_scale"} <= names
    assert all(name.startswith(("cv3.", "cv4.")) for name in names)


def test_bn_momentum_reaches_every_batch_norm() -> None:
    plain = _detector("yolo11n", nc=3)
    network.set_bn_momentum(plain, 0.2)
    norms = [m.momentum for m in plain.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert set(norms) == {0.2}
    assert math.isclose(norms[0], 0.2)


def test_a_file_to_start_from_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pt: no such checkpoint"):
        network.from_file(str(tmp_path / "none.pt"))
    with pytest.raises(WeightsError, match=r"none\.pt: no such checkpoint"):
        network.find_start("yolo11n", str(tmp_path / "none.pt"))
    (tmp_path / "mine.pt").touch()
    assert network.from_file(str(tmp_path / "mine.pt")).source == "file mine.pt"

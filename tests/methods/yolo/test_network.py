"""Networks: names, initial heads, and reading checkpoints safely."""

from __future__ import annotations

import pickle
import sys
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from toolkit import ultralytics_env
from toolkit.errors import ConfigError, WeightsError
from toolkit.methods.yolo import network
from toolkit.weights.registry import load


@pytest.fixture(autouse=True)
def _prepared() -> None:
    ultralytics_env.prepare()


def _checkpoint(path: Path, content: Any) -> Path:
    torch.save({"model": content, "train_args": {}}, path)
    return path


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


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("yolo11n", ("yolo11n",)),
        ("yolo11n-world", ("yolo11n",)),  # the YOLO beneath
        ("yolov8s-worldv2", ("yolov8s-worldv2", "yolov8s-warm-start")),  # official first
    ],
)
def test_registered_weights_of_a_network(model: str, names: tuple[str, ...]) -> None:
    assert network.pretrained_names(model) == names
    assert set(names) <= set(load())


def test_the_contrastive_head_starts_at_the_rate_of_objects() -> None:
    world = network.build_network("yolo11n-world", nc=3)
    network.start_contrastive_head(world)
    for contrast, stride in zip(world.model[-1].cv4, (8, 16, 32), strict=True):
        rate = torch.sigmoid(contrast.bias).item()
        assert rate * 3 * (640 / stride) ** 2 == pytest.approx(5, rel=0.05)  # all cells and classes


def test_a_head_with_batch_norm_keeps_its_start() -> None:
    world = network.build_network("yolov8s-worldv2", nc=3)
    network.start_contrastive_head(world)
    assert [c.bias.item() for c in world.model[-1].cv4] == [-10, -10, -10]


def test_untrained_layers_are_the_ends_of_the_class_branch() -> None:
    plain = network.build_network("yolo11n", nc=3)
    assert sum(p.numel() for p in network.untrained_parameters(plain)) == 3 * (64 * 3 + 3)
    world = network.build_network("yolo11n-world", nc=3)
    ours = {id(p) for p in network.untrained_parameters(world)}
    names = {n.split(".", 2)[2] for n, p in world.named_parameters() if id(p) in ours}
    assert {"cv3.0.2.weight", "cv3.0.2.bias", "cv4.0.bias", "cv4.0.logit_scale"} <= names
    assert all(name.startswith(("cv3.", "cv4.")) for name in names)


class _Harm:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.flag,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    path = _checkpoint(tmp_path / "foreign.pt", _Harm(flag))
    with pytest.raises(WeightsError, match=r"foreign\.pt"):
        network.load_network(path)
    assert not flag.exists()
    # The file is as harmful as it looks: an unguarded read runs it.
    torch.load(path, weights_only=False)
    assert flag.exists()


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps({"a": 1}, protocol=2)])
def test_damaged_checkpoints_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged\.pt"):
        network.load_network(path)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such checkpoint"):
        network.load_network(tmp_path / "none.pt")


def test_a_world_network_takes_over_all_but_the_text_layers(tmp_path: Path) -> None:
    donor = network.build_network("yolo11n", nc=80)
    source = network.load_network(_checkpoint(tmp_path / "yolo.pt", donor))
    world = network.build_network("yolo11n-world", nc=3)
    world.load(deepcopy(source), verbose=False)
    names, left = network.matching_tensors(world, source)
    theirs = donor.state_dict()
    same = [n for n, t in world.state_dict().items() if n in theirs and torch.equal(t, theirs[n])]
    assert names == same
    assert {*names, *left} == set(world.state_dict())
    # Left are the last convolution of the class branch and the contrastive layers.
    assert all(".cv4." in name or name.split(".cv3.")[1][1:3] == ".2" for name in left)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    broken = network.build_network("yolo11n", nc=3)
    with torch.no_grad():
        broken.model[0].conv.weight[0, 0, 0, 0] = value
    path = _checkpoint(tmp_path / "broken.pt", broken)
    with pytest.raises(WeightsError, match=r"broken\.pt: model\.0\.conv\.weight .* not finite"):
        network.load_network(path)


def test_allow_pickle_reads_what_is_refused_otherwise(tmp_path: Path) -> None:
    from ultralytics.nn import tasks

    class Foreign(torch.nn.Module):
        pass

    # As if it came from an installed library of unknown authors.
    library = ModuleType("somebodys_library")
    Foreign.__module__, Foreign.__qualname__ = library.__name__, "Foreign"
    library.Foreign = Foreign  # type: ignore[attr-defined]
    sys.modules[library.__name__] = library
    try:
        path = _checkpoint(tmp_path / "foreign.pt", Foreign())
        with pytest.raises(WeightsError, match="--allow-pickle"):
            network.load_network(path)
        assert type(network.load_network(path, allow_pickle=True)) is Foreign
    finally:
        del sys.modules[library.__name__]
    assert tasks.SAFE_LOAD  # the next one is guarded again


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("9.0.0", "made by Ultralytics 9.0.0, which is newer than"),
        ("8.0.1", "not a readable|holds more than"),  # an older one is to blame for nothing
    ],
)
def test_a_newer_ultralytics_is_named(version: str, message: str, tmp_path: Path) -> None:
    from ultralytics.nn import modules

    # A layer that this version does not have.
    new = type("LayerOfTheFuture", (torch.nn.Module,), {"__module__": modules.__name__})
    modules.LayerOfTheFuture = new
    try:
        path = tmp_path / "future.pt"
        torch.save({"model": new(), "train_args": {}, "version": version}, path)
    finally:
        del modules.LayerOfTheFuture
    assert network.checkpoint_version(path) == version
    with pytest.raises(WeightsError, match=message):
        network.load_network(path)


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_files_without_a_version(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    if content is None:
        torch.save({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    assert network.checkpoint_version(path) is None


@pytest.mark.parametrize(
    ("donor", "model", "fits"),
    [
        ("yolo11n", "yolo11n-world", True),
        ("yolov8s", "yolov8s-worldv2", True),  # 345 of 412
        ("yolo11s", "yolo11n", False),  # another size
        ("yolov8n", "yolo11n", False),  # another architecture; a few tensors fit by chance
    ],
)
def test_another_architecture_is_refused(donor: str, model: str, fits: bool) -> None:
    source = network.build_network(donor, nc=80)
    if fits:
        network.check_family(source, model=model, path=Path("donor.pt"))
    else:
        with pytest.raises(WeightsError, match=r"donor\.pt: only \d+ of the \d+ tensors"):
            network.check_family(source, model=model, path=Path("donor.pt"))


def test_copied_tensors_are_described_by_layer() -> None:
    left = ["model.23.cv3.0.2.weight", "model.23.cv3.0.2.bias", "model.23.cv4.0.bias"]
    assert network.describe_copied(["model.0.conv.weight"], left) == (
        "1 of 4 tensors copied; untrained: model.23.cv3 (2), model.23.cv4 (1)"
    )
    assert network.describe_copied(["a"], []) == "1 of 1 tensors copied"

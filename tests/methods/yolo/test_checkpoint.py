"""Checkpoints: what is read, what is refused, and what a network takes over."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from toolkit import ultralytics_env
from toolkit.errors import WeightsError
from toolkit.methods.yolo import network
from toolkit.methods.yolo.checkpoint import (
    Copied,
    check_family,
    copy_weights,
    load_network,
    written_by,
)


@pytest.fixture(autouse=True)
def _prepared() -> None:
    ultralytics_env.prepare()


def _detector(model: str, nc: int) -> Any:
    from ultralytics.nn.tasks import DetectionModel, WorldModel

    kind = WorldModel if network.is_world(model) else DetectionModel
    return kind(network.model_yaml(model), nc=nc, verbose=False)


def _checkpoint(path: Path, content: Any) -> Path:
    torch.save({"model": content, "train_args": {}}, path)
    return path


class _Harm:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.flag,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    path = _checkpoint(tmp_path / "foreign.pt", _Harm(flag))
    with pytest.raises(WeightsError, match=r"foreign\.pt"):
        load_network(path)
    assert not flag.exists()
    # The file is as harmful as it looks: an unguarded read runs it.
    torch.load(path, weights_only=False)
    assert flag.exists()


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps({"a": 1}, protocol=2)])
def test_damaged_checkpoints_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged\.pt"):
        load_network(path)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such checkpoint"):
        load_network(tmp_path / "none.pt")


def test_a_world_network_takes_over_all_but_the_text_layers(tmp_path: Path) -> None:
    donor = _detector("yolo11n", nc=80)
    path = _checkpoint(tmp_path / "yolo.pt", donor)
    world = _detector("yolo11n-world", nc=3)
    copied = copy_weights(world, load_network(path))
    theirs = donor.state_dict()
    same = [n for n, t in world.state_dict().items() if n in theirs and torch.equal(t, theirs[n])]
    assert copied.names == tuple(same)
    fresh = copied.left
    assert (*sorted(same), *sorted(fresh)) == (*sorted(copied.names), *sorted(copied.left))
    assert copied.total == len(world.state_dict())
    # What is left is the last convolution of the class branch and the contrastive layers.
    assert all(".cv4." in name or name.split(".cv3.")[1][1:3] == ".2" for name in fresh)


def test_nothing_in_common_is_an_error() -> None:
    donor, target = _detector("yolo11n", nc=3), torch.nn.Linear(2, 2)
    target.load = lambda source, verbose: None  # type: ignore[assignment]
    with pytest.raises(WeightsError, match="none of the checkpoint's"):
        copy_weights(target, donor)


def test_trust_reads_what_is_refused_otherwise(tmp_path: Path) -> None:
    from ultralytics.nn import tasks

    class Foreign(torch.nn.Module):
        pass

    # As if it came from an installed library that nobody vouched for.
    library = ModuleType("somebodys_library")
    Foreign.__module__, Foreign.__qualname__ = library.__name__, "Foreign"
    library.Foreign = Foreign  # type: ignore[attr-defined]
    sys.modules[library.__name__] = library
    try:
        path = _checkpoint(tmp_path / "foreign.pt", Foreign())
        with pytest.raises(WeightsError, match="--trust true"):
            load_network(path)
        assert type(load_network(path, trust=True)) is Foreign
    finally:
        del sys.modules[library.__name__]
    assert tasks.SAFE_LOAD  # the next one is guarded again


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("9.0.0", "made by Ultralytics 9.0.0, which is newer than"),
        ("8.0.1", "not a readable|holds more than"),  # an older one is to blame for nothing
    ],
)
def test_a_newer_ultralytics_is_named(version: str, said: str, tmp_path: Path) -> None:
    from ultralytics.nn import modules

    # A layer that this version does not have.
    new = type("LayerOfTheFuture", (torch.nn.Module,), {"__module__": modules.__name__})
    modules.LayerOfTheFuture = new
    try:
        path = tmp_path / "future.pt"
        torch.save({"model": new(), "train_args": {}, "version": version}, path)
    finally:
        del modules.LayerOfTheFuture
    assert written_by(path) == version
    with pytest.raises(WeightsError, match=said):
        load_network(path)


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_files_without_a_version(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    if content is None:
        torch.save({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    assert written_by(path) is None


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
    ours, theirs = _detector(model, nc=80), _detector(donor, nc=80)
    if fits:
        check_family(ours, theirs, model=model, path=Path("donor.pt"))
    else:
        with pytest.raises(WeightsError, match=r"donor\.pt: only \d+ of the \d+ tensors"):
            check_family(ours, theirs, model=model, path=Path("donor.pt"))


def test_what_was_copied_is_told_by_layer() -> None:
    copied = Copied(
        names=("model.0.conv.weight",),
        left=("model.23.cv3.0.2.weight", "model.23.cv3.0.2.bias", "model.23.cv4.0.bias"),
    )
    assert copied.describe() == (
        "1 of 4 tensors copied; untrained: model.23.cv3 (2), model.23.cv4 (1)"
    )
    assert Copied(names=("a",), left=()).describe() == "1 of 1 tensors copied"

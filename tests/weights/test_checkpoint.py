"""Tensors come out of checkpoints without running strangers' code, and go where they fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from toolkit.errors import WeightsError
from toolkit.home import weights_dir
from toolkit.weights.checkpoint import load_tensors, tensors_sha256, warm_start


def network(classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, classes))


class Burglar:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.fixture(autouse=True)
def _no_class_is_safe() -> Iterator[None]:
    """Forget for a while which classes Ultralytics has allowed for the life of this process."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(allowed)


@pytest.fixture
def yolo_like(tmp_path: Path) -> Path:
    """A checkpoint in the layout of Ultralytics: pickled networks, in half precision."""
    path = tmp_path / "yolo.pt"
    torch.save({"model": network(2).half(), "ema": network(7).half(), "epoch": 3}, path)
    return path


def test_warm_start_copies_what_fits(tmp_path: Path) -> None:
    source, target = network(7), network(3)
    source[1].running_mean.fill_(5.0)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    before = target[2].weight.clone()
    report = warm_start(target, tmp_path / "a.pt")
    assert (report.copied, report.total) == (7, 9)
    assert report.skipped == ("2.weight", "2.bias")
    assert str(report) == "7 of 9 tensors"
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[1].running_mean, source[1].running_mean)
    assert torch.equal(target[2].weight, before)


def test_warm_start_refuses_when_nothing_fits(tmp_path: Path) -> None:
    torch.save({"elsewhere": torch.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"a\.pt: none of its 1 tensors fits"):
        warm_start(network(3), tmp_path / "a.pt")


@pytest.mark.parametrize(
    "content",
    [
        {"w": torch.ones(2, 3)},  # a plain state dict
        {"model": {"w": torch.ones(2, 3)}, "epoch": 3},  # nested, as MobileSAM forks do
        {"state_dict": {"w": torch.ones(2, 3)}},  # as Lightning does
        {"w": torch.ones(2, 3).half(), "lr": 0.1},  # half precision, and something else beside
    ],
)
def test_plain_layouts(tmp_path: Path, content: dict[str, object]) -> None:
    torch.save(content, tmp_path / "a.pt")
    state = load_tensors(tmp_path / "a.pt")
    assert list(state) == ["w"]
    assert torch.equal(state["w"], torch.ones(2, 3))
    assert state["w"].dtype is torch.float32


def test_integers_stay_integers(tmp_path: Path) -> None:
    torch.save({"num_batches_tracked": torch.tensor(3)}, tmp_path / "a.pt")
    assert load_tensors(tmp_path / "a.pt")["num_batches_tracked"].dtype is torch.int64


def test_pickled_code_does_not_run_untrusted(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"model": Burglar(trace)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"a\.pt: a pickled network can run code.*--trust"):
        load_tensors(tmp_path / "a.pt")
    assert not trace.exists()
    with pytest.raises(WeightsError, match="holds no tensors"):
        load_tensors(tmp_path / "a.pt", trust=True)
    assert trace.exists(), "or this test would prove nothing"


def test_pickled_network_is_read_when_trusted(yolo_like: Path) -> None:
    state = load_tensors(yolo_like, trust=True)
    assert state["2.weight"].shape == (7, 4), "the averaged network is preferred"
    assert state["2.weight"].dtype is torch.float32


def test_pickled_network_is_read_when_the_registry_pins_it(
    yolo_like: Path, write_registry: Callable[..., Path]
) -> None:
    write_registry(net={"sha256": hashlib.sha256(yolo_like.read_bytes()).hexdigest()})
    assert warm_start(network(7), yolo_like).copied == 9


def test_first_fetch_record_is_not_trust(
    yolo_like: Path, write_registry: Callable[..., Path]
) -> None:
    digest = hashlib.sha256(yolo_like.read_bytes()).hexdigest()
    write_registry(net={"sha256_prefix": digest[:8]})
    (weights_dir() / "net.pt.sha256").write_text(digest)
    with pytest.raises(WeightsError, match="--trust"):
        load_tensors(yolo_like)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such checkpoint"),
        (b"", "not a readable checkpoint"),
        (b"PK\x03\x04 and then nothing", "not a readable checkpoint"),
    ],
)
def test_unreadable(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=reason) as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)


def test_truncated_checkpoint(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(100)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        load_tensors(tmp_path / "a.pt")


@given(st.permutations(["a", "b", "c"]))
def test_tensors_hash_ignores_order(order: list[str]) -> None:
    values = {"a": torch.arange(3), "b": torch.zeros(2, 2), "c": torch.tensor(1.5)}
    assert tensors_sha256({name: values[name] for name in order}) == tensors_sha256(values)


@pytest.mark.parametrize(
    "other",
    [
        {"b": torch.zeros(2, 2)},  # name
        {"a": torch.zeros(4)},  # shape
        {"a": torch.zeros(2, 2, dtype=torch.int32)},  # type, same bytes
        {"a": torch.eye(2)},  # values
        {"a": torch.zeros(2, 2), "b": torch.zeros(0)},  # one more
    ],
)
def test_tensors_hash_sees_every_difference(other: dict[str, torch.Tensor]) -> None:
    assert tensors_sha256(other) != tensors_sha256({"a": torch.zeros(2, 2)})


def test_tensors_hash_survives_saving_and_layout(tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3).T}
    torch.save(state, tmp_path / "a.pt")
    assert tensors_sha256(load_tensors(tmp_path / "a.pt")) == tensors_sha256(state)
    assert tensors_sha256({"a": state["a"].contiguous()}) == tensors_sha256(state)

"""Checkpoints are read without running code in them, and copied where they match."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from toolkit.errors import WeightsError
from toolkit.home import weights_dir
from toolkit.weights.checkpoint import copy_matching, load_state_dict, tensors_sha256


def network(classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, classes))


class Malicious:
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


def test_matching_tensors_are_copied() -> None:
    source, target = network(7), network(3)
    source[1].running_mean.fill_(5.0)
    before = target[2].weight.clone()
    report = copy_matching(target, source.state_dict(), source="a.pt")
    assert len(report.copied) == 7
    assert report.skipped == ("2.weight", "2.bias")
    assert str(report) == "7 of 9 tensors"
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[1].running_mean, source[1].running_mean)
    assert torch.equal(target[2].weight, before)


@pytest.mark.parametrize(
    ("state", "strict", "words"),
    [
        ({"elsewhere": torch.zeros(3)}, False, r"0 of 9 tensors match.*0\.weight.*is missing"),
        (network(7).state_dict(), True, r"2\.weight \(3, 4\) has shape \(7, 4\)"),
    ],
)
def test_another_network_is_refused(
    state: dict[str, torch.Tensor], strict: bool, words: str
) -> None:
    target = network(3)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(WeightsError, match=rf"^a\.pt: .*{words}"):
        copy_matching(target, state, source="a.pt", strict=strict)
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in before.items())


def test_strict_needs_no_counters() -> None:
    state = {k: v for k, v in network(3).state_dict().items() if "num_batches" not in k}
    assert len(copy_matching(network(3), state, source="a.pt", strict=True).copied) == 8


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
    state = load_state_dict(tmp_path / "a.pt")
    assert list(state) == ["w"]
    assert torch.equal(state["w"], torch.ones(2, 3))
    assert state["w"].dtype is torch.float32


def test_integers_stay_integers(tmp_path: Path) -> None:
    torch.save({"num_batches_tracked": torch.tensor(3)}, tmp_path / "a.pt")
    assert load_state_dict(tmp_path / "a.pt")["num_batches_tracked"].dtype is torch.int64


def test_pickled_code_does_not_run_untrusted(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"model": Malicious(trace)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"a\.pt: .*can run code.*registry\.yaml$"):
        load_state_dict(tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"trust its author, add --allow-pickle$"):
        load_state_dict(tmp_path / "a.pt", pickle_option="--allow-pickle")
    assert not trace.exists()
    with pytest.raises(WeightsError, match="contains no tensors"):
        load_state_dict(tmp_path / "a.pt", allow_pickle=True)
    assert trace.exists(), "or this test would prove nothing"


def test_pickled_network_is_read_when_trusted(yolo_like: Path) -> None:
    state = load_state_dict(yolo_like, allow_pickle=True)
    assert state["2.weight"].shape == (7, 4), "the averaged network is preferred"
    assert state["2.weight"].dtype is torch.float32


def test_pickled_network_is_read_when_the_registry_pins_it(
    yolo_like: Path, write_registry: Callable[..., Path]
) -> None:
    write_registry(net={"sha256": hashlib.sha256(yolo_like.read_bytes()).hexdigest()})
    assert len(load_state_dict(yolo_like)) == 9


def test_first_fetch_record_is_not_trust(
    yolo_like: Path, write_registry: Callable[..., Path]
) -> None:
    digest = hashlib.sha256(yolo_like.read_bytes()).hexdigest()
    write_registry(net={"sha256_prefix": digest[:8]})
    (weights_dir() / "net.pt.sha256").write_text(digest)
    with pytest.raises(WeightsError, match="can run code"):
        load_state_dict(yolo_like)


SAFE = safetensors.torch.save({"w": torch.ones(100)})
HUGE = json.dumps({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}}).encode()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pt", None, "no such checkpoint"),
        ("a.pt", b"", "not a readable checkpoint"),
        ("a.pt", b"PK\x03\x04 and then nothing", "not a readable checkpoint"),
        ("a.pt", SAFE, "not a readable checkpoint"),  # only the name ends so
        ("a.safetensors", None, "no such checkpoint"),
        ("a.safetensors", b"", "not a safetensors file"),
        ("a.safetensors", b"PK\x03\x04 and then nothing", "not a safetensors file"),
        ("a.safetensors", b"<html>sign in</html>", "not a safetensors file"),
        ("a.safetensors", SAFE[:-10], "not a safetensors file"),
        ("a.safetensors", SAFE[:20], "not a safetensors file"),
        ("a.safetensors", b"\xff" * 8 + b"{}", "not a safetensors file"),  # 2⁶⁴ bytes of header
        ("a.safetensors", struct.pack("<Q", len(HUGE)) + HUGE + bytes(8), "not a safetensors file"),
        ("a.safetensors", struct.pack("<Q", 2) + b"{}", "contains no tensors"),
    ],
)
def test_unreadable(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=reason) as caught:
        load_state_dict(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_safetensors(tmp_path: Path) -> None:
    state = {"w": torch.ones(2, 3, dtype=torch.float16), "n": torch.tensor(3)}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    read = load_state_dict(tmp_path / "a.safetensors")
    assert torch.equal(read["w"], torch.ones(2, 3))
    assert read["n"].dtype is torch.int64


@pytest.mark.parametrize("allow_pickle", [False, True])
@pytest.mark.parametrize("kept", [1, 10, 100, 500, 900, 1200])
def test_truncated_checkpoint(tmp_path: Path, kept: int, allow_pickle: bool) -> None:
    torch.save({"w": torch.ones(100)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[:kept])
    with pytest.raises(WeightsError, match=r"not a readable checkpoint|can run code") as caught:
        load_state_dict(tmp_path / "a.pt", allow_pickle=allow_pickle)
    assert "\n" not in str(caught.value)


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
    assert tensors_sha256(load_state_dict(tmp_path / "a.pt")) == tensors_sha256(state)
    assert tensors_sha256({"a": state["a"].contiguous()}) == tensors_sha256(state)

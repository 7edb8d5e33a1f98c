"""Which device is taken, and what is said where it is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from toolkit.errors import ConfigError
from toolkit.runs.environment import choose_device, keep_freed_memory


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    cards, apple = request.param
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)


@pytest.mark.parametrize(
    ("machine", "wanted", "found"),
    [
        ((0, False), "auto", "cpu"),
        ((0, True), "auto", "mps"),
        # a card before everything else, the first one unless another is named
        ((2, False), "auto", "cuda"),
        ((2, False), "cuda:1", "cuda:1"),
        ((2, False), "cuda", "cuda"),
        # both at once
        ((2, False), "cuda:0,1", "cuda:0,1"),
        ((2, False), "cpu", "cpu"),
        ((0, True), "mps", "mps"),
    ],
    indirect=["machine"],
)
@pytest.mark.usefixtures("machine")
def test_taken(wanted: str, found: str) -> None:
    assert choose_device(wanted) == found


@pytest.mark.parametrize(
    ("machine", "wanted", "there"),
    [
        ((0, False), "cuda", "cpu"),
        # a card that is not among them
        ((2, False), "cuda:2", "cuda, cpu, cuda:0, cuda:1"),
        ((2, False), "cuda:1,2", "cuda, cpu, cuda:0, cuda:1"),
        ((2, False), "cuda,1", "cuda, cpu, cuda:0, cuda:1"),
        # there is but one processor
        ((0, False), "cpu:7", "cpu"),
        ((0, False), "mps", "cpu"),
        ((0, False), "gpu", "cpu"),
        ((0, False), "", "cpu"),
    ],
    indirect=["machine"],
)
@pytest.mark.usefixtures("machine")
def test_not_there(wanted: str, there: str) -> None:
    with pytest.raises(ConfigError) as found:
        choose_device(wanted)
    assert str(found.value) == f"--device {wanted}: not available here; this machine has {there}"


_FAULTS = """
import resource, sys
import torch
from toolkit.runs.environment import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(30):
    torch.ones(16 * 2**20)  # 64 MiB, the first of which are fresh
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="needs glibc")
@pytest.mark.parametrize(
    ("how", "least", "most"),
    [
        # 64 MiB are at least 32 pages, even where the system hands out huge ones
        ("given back", 10 * 32, float("inf")),
        ("kept", 0, 10),
    ],
)
def test_freed_memory(how: str, least: float, most: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, check=True
    )
    assert least <= int(done.stdout) <= most

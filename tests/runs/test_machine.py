"""Which device is taken, and what is said where it is not there."""

from __future__ import annotations

import pytest
import torch

from toolkit.errors import ConfigError
from toolkit.runs.machine import choose_device


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

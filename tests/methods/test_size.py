"""The number of parameters that a run notes."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from toolkit.methods.size import note_parameters
from toolkit.runs.run import Run


def test_all_networks_count_frozen_or_not_and_buffers_do_not(tmp_path: Path) -> None:
    frozen = nn.Linear(3, 4).requires_grad_(False)  # 16
    run = Run.create(tmp_path, method="m", settings={}, split={}, data={})
    note_parameters(run, frozen, nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))  # 20 + 4
    assert Run.open(run.path).metadata["parameters"] == 40

"""Ultralytics' arguments of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolkit.methods.yolo.settings import YoloSettings
from toolkit.methods.yolo.training import train_arguments
from toolkit.runs.run import Run


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"scale": 0.1, "mosaic": YoloSettings().mosaic, "nbs": 16, "amp": False}),
        ({"scale": 0.5}, {"scale": 0.5}),
        ({"batch": 4}, {"batch": 4, "nbs": 4}),  # one optimiser step per batch
        ({"epochs": 3, "close_mosaic": 10}, {"close_mosaic": 3}),  # Ultralytics refuses more
        ({"ultralytics_args": {"translate": 0.0, "amp": True}}, {"translate": 0.0, "amp": True}),
        # By the data card, unless an explicit argument overrides it.
        ({}, {"degrees": 180.0}),
        ({"ultralytics_args": {"fliplr": 0.1}}, {"fliplr": 0.1}),
    ],
)
def test_arguments(settings: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    run = Run.create(tmp_path, method="yolo", settings={}, split={}, data={}, seed=7)
    found = train_arguments(
        YoloSettings(**settings),
        run=run,
        data=tmp_path / "data.yaml",
        flips_and_rotation={"fliplr": 0.5, "flipud": 0.5, "degrees": 180.0},
        freeze=(),
    )
    assert {key: found[key] for key in expected} == expected
    assert found["seed"] == 7
    assert found["save_dir"] == str(run.path / "ultralytics")
    assert found["freeze"] is None

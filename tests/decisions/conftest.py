"""A finished run of the stand-in `grey`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.inference.model import Model, load_model
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training


@pytest.fixture
def run(sample_dir: Path, tmp_path: Path) -> Run:
    dataset = load_dataset(sample_dir)
    split = make_plan(dataset, folds=3).fold(dataset, 0)
    return run_training(TrainingTask("grey", "grey", device="cpu"), split, runs=tmp_path / "runs")


@pytest.fixture
def model(run: Run) -> Model:
    return load_model(run)


@pytest.fixture
def mean(run: Run) -> float:
    return float(json.loads((run.weights / "state.json").read_text())["mean"])

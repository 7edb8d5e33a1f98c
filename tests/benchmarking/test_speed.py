"""Speed is measured after the trainings, with the engine that was asked for, once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.leaderboards.standin import Grey, grey  # noqa: F401
from toolkit.benchmarking.speed import measure_runs
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.types import Dataset
from toolkit.errors import ConfigError
from toolkit.runs.evaluate import evaluate
from toolkit.runs.run import Run
from toolkit.runs.speed import SPEED, measured_speed
from toolkit.training import TrainingTask, run_training

pytestmark = pytest.mark.usefixtures("grey")


@pytest.fixture
def dataset(sample_dir: Path) -> Dataset:
    return load_dataset(sample_dir)


@pytest.fixture
def folds(dataset: Dataset, tmp_path: Path) -> list[Run]:
    plan = make_plan(dataset, folds=3)
    return [
        run_training(TrainingTask("grey", f"grey{i}", device="cpu", fold=i), plan.fold(dataset, i),
                     runs=tmp_path)
        for i in range(2)
    ]  # fmt: skip


def test_what_is_measured_stands_in_the_metrics(folds: list[Run], dataset: Dataset) -> None:
    before = folds[0].metrics()
    said: list[str] = []
    assert measure_runs(folds, dataset, engine="torch", say=said.append) == []
    assert [line.split(":")[0] for line in said] == ["grey/001", "grey/002"]
    record = json.loads((folds[0].path / SPEED).read_text())
    assert len(record["seconds"]) == len(record["decode_seconds"]) == 50
    assert (record["engine"], record["threads"] >= 1) == ("torch", True)
    after = folds[0].metrics()
    assert after["speed"]["ms_per_image_median"] == pytest.approx(
        1e3 * np.median(record["seconds"]), abs=1e-3
    )
    assert after["speed"]["ms_per_image_p95"] >= after["speed"]["ms_per_image_median"]
    assert after["speed"]["engine"] == "torch"
    assert {**after, "speed": None} == {**before, "speed": None}
    assert after["speed"]["fit_seconds"] == before["speed"]["fit_seconds"]
    assert evaluate(folds[0], dataset) == after


def test_it_is_measured_once_per_engine(folds: list[Run], dataset: Dataset) -> None:
    said: list[str] = []
    measure_runs(folds[:1], dataset, engine="torch", say=said.append)
    measure_runs(folds[:1], dataset, engine="torch", say=said.append)
    assert len(said) == 1
    measure_runs(folds[:1], dataset, engine="auto", say=said.append)
    assert len(said) == 2


def test_folds_are_pooled_where_all_were_measured(folds: list[Run], dataset: Dataset) -> None:
    measure_runs(folds[:1], dataset, engine="torch", say=print)
    assert measured_speed(folds) == {}
    assert "engine" not in evaluate(folds, dataset)["speed"]
    measure_runs(folds, dataset, engine="torch", say=print)
    assert evaluate(folds, dataset)["speed"]["engine"] == "torch"


def test_a_run_that_cannot_be_measured_is_an_error(folds: list[Run], dataset: Dataset) -> None:
    pytest.importorskip("openvino")
    (one, _) = measure_runs(folds, dataset, engine="openvino", say=print)
    assert isinstance(one, ConfigError)
    assert not (folds[0].path / SPEED).exists()

"""Predictions, maps and data that do not belong to a run are refused, and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runs.guessed import full, make_run
from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset
from toolkit.errors import RunError
from toolkit.runs.evaluate import evaluate
from toolkit.runs.scored_predictions import load_scored_predictions


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], "no prediction for"),
        (lambda lines: [*lines, lines[0].replace("test/", "test/x")], "for unknown image test/x"),
        (lambda lines: [*lines[:-1], '{"schema": 1, "id'], "is damaged"),
    ],
)
def test_predictions_that_do_not_fit(
    dataset: Dataset, tmp_path: Path, change: object, said: str
) -> None:
    run = make_run(tmp_path, dataset, 0)
    file = run.predictions / "test.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(change(lines)) + "\n")  # type: ignore[operator]
    with pytest.raises(RunError, match=said):
        evaluate([run], dataset)


def test_a_prediction_twice(dataset: Dataset, tmp_path: Path) -> None:
    """The better of two answers would be a choice that no one may have."""
    run = make_run(tmp_path, dataset, 0)
    file = run.predictions / "test.jsonl"
    lines = file.read_text().splitlines()
    other = json.loads(lines[0])
    other["score"] += 100
    file.write_text("\n".join([*lines, json.dumps(other)]) + "\n")
    with pytest.raises(RunError, match="two predictions for"):
        evaluate([run], dataset)


def test_a_missing_image_names_it(dataset: Dataset, tmp_path: Path) -> None:
    run = make_run(tmp_path, dataset, 0)
    smaller = replace(dataset, samples=dataset.samples[1:])
    gone = dataset.samples[0].id
    part = next(p for p in ("test", "val", "train") if gone in run.record["split"][p])
    with pytest.raises(RunError, match=gone):
        load_scored_predictions(run, smaller, part)


def test_changed_masks_are_not_the_data_of_the_run(dataset: Dataset, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", dataset, 0)
    other = shutil.copytree(dataset.root, tmp_path / dataset.name)
    assert evaluate([run], load_dataset(other)) == evaluate([run], dataset)  # moved, not changed
    masks = sorted((other / "ground_truth").rglob("*.png"))
    shutil.copyfile(masks[0], masks[1])
    with pytest.raises(RunError, match="not the data"):
        evaluate([run], load_dataset(other))


def test_nan_in_a_report_is_one_line(dataset: Dataset, tmp_path: Path) -> None:
    run = make_run(tmp_path, dataset, 0)
    (run.path / "report.json").write_text('{"loss": NaN}')
    with pytest.raises(RunError, match=r"report\.json: damaged \(a metric is nan"):
        evaluate(run, dataset)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file.unlink(), "the anomaly map cannot be read"),
        (lambda file: file.write_bytes(b"no array"), "the anomaly map is damaged"),
        (lambda file: file.write_bytes(b""), "the anomaly map is damaged"),
    ],
)
def test_a_missing_or_damaged_anomaly_map_is_named(
    dataset: Dataset, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    run = make_run(tmp_path, dataset, 0, full)
    file = sorted((run.predictions / "test").rglob("*.npy"))[-1]
    damage(file)
    with pytest.raises(RunError, match=words) as caught:
        evaluate(run, dataset)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_that_is_not_utf8_is_named(dataset: Dataset, tmp_path: Path) -> None:
    run = make_run(tmp_path, dataset, 0)
    file = run.predictions / "test.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"id"', b'"\xff"', 1))
    with pytest.raises(RunError, match=r"test\.jsonl: line 1 is damaged") as caught:
        evaluate(run, dataset)
    assert "\n" not in str(caught.value)

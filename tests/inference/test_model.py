"""A loaded run: it loads once, predicts every kind of source alike, and refuses broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.leaderboards.standin import Grey, grey  # noqa: F401
from toolkit.data.images import read_rgb
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.errors import DataError, RunError
from toolkit.inference.model import load_model
from toolkit.methods.base import Predictor
from toolkit.prediction import Prediction
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training

pytestmark = pytest.mark.usefixtures("grey")


@pytest.fixture
def finished(sample_dir: Path, tmp_path: Path, grey: type[Grey]) -> Run:  # noqa: F811
    split = make_plan(load_dataset(sample_dir), folds=3).fold(load_dataset(sample_dir), 0)
    return run_training(TrainingTask("grey", "grey", device="cpu"), split, runs=tmp_path / "runs")


@pytest.fixture
def images(sample_dir: Path) -> list[Path]:
    return sorted(sample_dir.rglob("test/*/*.png"))[:3]


KINDS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "text": str,
    "array": read_rgb,
    "PIL image": lambda path: Image.open(path),
    "list": lambda path: [path],
    "generator": lambda path: (read_rgb(one) for one in [path]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_same_result(
    kind: str, finished: Run, images: list[Path]
) -> None:
    model = load_model(finished)
    (wanted,) = model(images[0])
    (found,) = model(KINDS[kind](images[0]))
    assert found.score == wanted.score
    np.testing.assert_array_equal(found.image, wanted.image)
    np.testing.assert_array_equal(found.anomaly_map, wanted.anomaly_map)
    np.testing.assert_array_equal(found.mask, wanted.mask)


def test_the_scores_are_those_that_the_run_stored(finished: Run, sample_dir: Path) -> None:
    stored = {p.sample_id: p.score for p in read_predictions(finished.predictions, "test")}
    results = load_model(str(finished.path)).predict([sample_dir / name for name in stored])
    assert [r.score for r in results] == list(stored.values())
    assert [r.threshold for r in results] == [finished.metrics()["thresholds"][0]] * len(stored)


def test_a_second_call_loads_nothing(
    finished: Run, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(finished)
    model(images[0])
    monkeypatch.setattr(Grey, "load", None)
    monkeypatch.setattr(Run, "metrics", None)
    assert len(model(images)) == len(images)


def test_a_stream_reads_one_batch_ahead_at_most(finished: Run, images: list[Path]) -> None:
    read = []

    def paths() -> Any:
        for path in images:
            read.append(path)
            yield path

    stream = load_model(finished).predict(paths(), stream=True)
    assert not read
    assert next(stream).path == images[0]
    assert read == images[:1]


class Batches(Predictor):
    """Records the sizes of its batches; a score is the mean of the image."""

    batch_size = 2

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        self.sizes.append(len(images))
        return [Prediction(float(image.mean())) for image in images]


def test_images_go_through_in_batches_of_the_predictor(
    finished: Run, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Batches()
    monkeypatch.setattr(Grey, "load", lambda self, run: predictor)
    results = load_model(finished)(images)
    assert predictor.sizes == [2, 1]
    assert [r.score for r in results] == [float(read_rgb(path).mean()) for path in images]


def test_errors_of_single_images_can_be_handled(
    finished: Run, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(images[0].read_bytes()[:-40])
    source = [images[0], tmp_path / "bad.png", images[1]]
    model = load_model(finished)
    with pytest.raises(DataError, match=r"bad\.png"):
        model(source)
    errors: list[DataError] = []
    results = model.predict(source, on_error=errors.append)
    assert [r.path for r in results] == images[:2]
    assert len(errors) == 1


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_never_good(
    score: float, finished: Run, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Batches):
        def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
            return [Prediction(score) for _ in images]

    monkeypatch.setattr(Grey, "load", lambda self, run: Broken())
    with pytest.raises(RunError, match="the weights are damaged"):
        load_model(finished)(images[0])


def _unfinished(run: Run) -> None:
    (run.path / "metrics.json").unlink()


def _older(run: Run) -> None:
    record = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**record, "schema": 1}))


def _gone(run: Run) -> None:
    (run.path / "run.json").unlink()


@pytest.mark.parametrize(
    ("break_run", "message"),
    [
        (_unfinished, "not finished"),
        (_older, "of schema 1, made by an older or newer version"),
        (_gone, "not a run directory"),
    ],
)
def test_runs_that_cannot_be_loaded(
    break_run: Callable[[Run], None], message: str, finished: Run
) -> None:
    break_run(finished)
    with pytest.raises(RunError, match=message):
        load_model(finished.path)

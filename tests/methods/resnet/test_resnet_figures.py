"""Figures of classes over pooled folds, against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score

from toolkit.data.layouts import read_dataset
from toolkit.data.splits import make_plan
from toolkit.data.types import Dataset
from toolkit.errors import RunError
from toolkit.methods.resnet.figures import ClassFigures, Figure, class_figures, figures_table
from toolkit.runs.prediction import Prediction
from toolkit.runs.run import Run
from toolkit.runs.storage import write_predictions


@pytest.fixture(scope="module")
def dataset(sample_dir: Path) -> Dataset:
    return read_dataset(sample_dir)


def _fold(root: Path, dataset: Dataset, fold: int, *, classes: str = "types") -> Run:
    """Store random answers for the test part of a fold."""
    split = make_plan(dataset, folds=3).fold(dataset, fold)
    run = Run.create(
        root,
        method="resnet",
        settings={},
        split={"fold": fold, "test": [s.id for s in split.test]},
        data={"fingerprint": dataset.fingerprint, "root": str(dataset.root)},
        name=f"fold{fold}",
    )
    run.note(entry="random")
    rng = np.random.default_rng(fold)
    names = {"types": ["good", *dataset.classes], "binary": ["good", "defect"]}.get(classes)
    predictions = []
    for sample in split.test:
        shares = rng.dirichlet(np.ones(len(names or [1])))
        given = dict(zip(names, shares.tolist(), strict=True)) if names else None
        predictions.append(Prediction(sample.id, float(rng.normal()), class_probabilities=given))
    write_predictions(run.predictions, "test", predictions)
    return run


def _answers(runs: list[Run], dataset: Dataset) -> tuple[list[str], list[str]]:
    from toolkit.runs.storage import read_predictions

    truth, said = [], []
    for run in runs:
        for p in read_predictions(run.predictions, "test"):
            truth.append(dataset.by_id[p.sample_id].label)
            shares = p.class_probabilities or {}
            said.append(max(shares, key=lambda name: shares[name]))
    return truth, said


def test_figures_are_sklearns(tmp_path: Path, dataset: Dataset) -> None:
    runs = [_fold(tmp_path, dataset, fold) for fold in range(3)]
    truth, said = _answers(runs, dataset)
    found = class_figures(runs, dataset)
    figures = {name: figure.value for name, figure in found.figures.items()}
    recalls = recall_score(truth, said, average=None, labels=["good", *dataset.classes])
    assert found.images == len(truth)
    assert figures["accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert figures["ACSA"] == pytest.approx(balanced_accuracy_score(truth, said))
    assert figures["macro F1"] == pytest.approx(f1_score(truth, said, average="macro"))
    assert figures["G-mean"] == pytest.approx(np.prod(recalls) ** (1 / len(recalls)))
    for name, recall in zip(["good", *dataset.classes], recalls, strict=True):
        assert figures[f"recall {name}"] == pytest.approx(recall)
    assert all(f.low <= f.value <= f.high for n, f in found.figures.items() if n != "G-mean")
    assert found.figures["accuracy"].high > found.figures["accuracy"].low


def test_good_against_defect(tmp_path: Path, dataset: Dataset) -> None:
    found = class_figures([_fold(tmp_path, dataset, 0, classes="binary")], dataset)
    assert {"recall good", "recall defect"} <= set(found.figures)


def test_a_method_without_classes_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(RunError, match="resnet gives no classes; name a classifier"):
        class_figures([_fold(tmp_path, dataset, 0, classes="none")], dataset)


def test_one_line_per_entry() -> None:
    def one(entry: str, seed: int, value: float) -> ClassFigures:
        return ClassFigures(entry, seed, 9, {"ACSA": Figure(value, value - 0.1, value + 0.1)})

    text = figures_table([one("a", 0, 0.5), one("b", 0, 0.6), one("b", 1, 0.8)])
    assert text.splitlines() == [
        "| entry | ACSA |",
        "|---|---|",
        "| a | 0.500 [0.40, 0.60] |",
        "| b | 0.700 ± 0.141 |",  # several seeds
    ]

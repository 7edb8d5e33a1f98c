"""From a folder of images to a trained classifier and its predictions."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from tests.methods.classifier.training import TINY, new_run
from toolkit.data.images import read_rgb
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.errors import ConfigError
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.classifier import train as train_module
from toolkit.methods.classifier.checkpoint import (
    BEST,
    LAST,
    read_best,
)
from toolkit.methods.classifier.data import ImageSet
from toolkit.methods.classifier.method import Classifier
from toolkit.methods.classifier.train import State, train
from toolkit.runs.prediction_io import write_predictions
from toolkit.runs.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def split(sample_dir: Path) -> Split:
    dataset = load_dataset(sample_dir)
    return make_plan(dataset, folds=3).fold(dataset, 0)


@pytest.mark.parametrize("classes", ["types", "binary"])
def test_from_folder_to_predictions(tmp_path: Path, split: Split, classes: str) -> None:
    settings = dataclasses.replace(TINY, classes=classes, head_epochs=0)  # type: ignore[arg-type]
    run = new_run(tmp_path, settings)
    blind = dataclasses.replace(split, test=())  # fit has no use for the test part
    Classifier(settings).fit(blind, run)
    assert run.metadata["weights"] == "none"
    assert run.metadata["parameters"] > 1e4
    assert "as requested" in run.metadata["weights_source"]

    predictor = Classifier(settings).load(Run.open(run.path))
    predictions = list(predict_samples(predictor, split.test))
    assert [p.sample_id for p in predictions] == [s.id for s in split.test]
    arrays = predictor.predict([read_rgb(s.image) for s in split.test])
    assert [p.score for p in arrays] == [p.score for p in predictions]
    names = {"types": ["good", *split.dataset.classes], "binary": ["good", "defect"]}[classes]
    for prediction in predictions:
        assert prediction.class_probabilities is not None
        assert list(prediction.class_probabilities) == names
        assert sum(prediction.class_probabilities.values()) == pytest.approx(1)
        good = prediction.class_probabilities["good"]
        defect = sum(p for name, p in prediction.class_probabilities.items() if name != "good")
        assert prediction.score == pytest.approx(math.log(defect / good), abs=1e-6)

    write_predictions(run.predictions, "test", predictions)
    report = Classifier(settings).report(split, run)
    assert report["epochs"] == 2
    last = run.results()[-1]
    for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert report[key] == float(last[key])
    counted = sum(sum(row) for row in report["validation"]["confusion"])
    assert counted == len(split.val)
    for name in ("curves.png", "confusion_val.png", "confusion_test.png"):
        assert (run.plots / name).stat().st_size > 5000
    wrong = [
        s.id
        for s, p in zip(split.test, predictions, strict=True)
        if max(p.class_probabilities or {}, key=(p.class_probabilities or {}).__getitem__)
        != (s.label if classes == "types" or not s.is_defect else "defect")
    ]
    assert wrong or classes == "binary"  # two epochs from scratch are not enough
    drawn = {path.stem for path in (run.plots / "wrong").glob("*")}
    assert drawn == {name.replace("/", "-").removesuffix(".png") for name in wrong}


def test_deepsmote_fills_up_the_training_part(tmp_path: Path, sample_dir: Path) -> None:
    dataset = load_dataset(sample_dir)
    split = make_plan(dataset, folds=3).fold(dataset, 0)
    settings = dataclasses.replace(
        TINY, imbalance="deepsmote", deepsmote_size=16, deepsmote_epochs=2, smote_num_neighbors=1,
        image_size=24, finetune_epochs=1, head_epochs=0,
    )  # fmt: skip
    run = new_run(tmp_path, settings)
    Classifier(settings).fit(split, run)
    labels = [s.label for s in split.train]
    most = max(labels.count(name) for name in set(labels))
    folder = run.path / "synthetic"
    for name in split.dataset.classes:
        made = list((folder / name).glob("*.png"))
        assert len(made) == most - labels.count(name)
    assert (folder / "contact_sheet.png").is_file()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    (run.weights / LAST).unlink()
    Classifier(settings).fit(split, run)  # as after an interruption
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before


@pytest.mark.parametrize("imbalance", ["smote", "deepsmote"])
def test_too_many_neighbors_are_refused_before_training(
    tmp_path: Path, split: Split, imbalance: str
) -> None:
    settings = dataclasses.replace(TINY, imbalance=imbalance, smote_num_neighbors=9)  # type: ignore[arg-type]
    run = new_run(tmp_path, settings)
    with pytest.raises(
        ConfigError, match=r"smote_num_neighbors=9: class \w+ has \d+ training images"
    ):
        Classifier(settings).fit(split, run)
    assert not run.results()
    assert not list(run.weights.iterdir())


def test_where_nothing_is_chosen_validation_images_are_trained_on(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def noting(*models: object, train_images: ImageSet, **others: object) -> State:
        sizes.append(len(train_images.labels))
        return train(*models, train_images=train_images, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(train_module, "train", noting)
    for monitor in ("last", "none"):
        settings = dataclasses.replace(TINY, monitor=monitor, finetune_epochs=1, head_epochs=0)  # type: ignore[arg-type]
        Classifier(settings).fit(split, new_run(tmp_path, settings, monitor))
    assert sizes == [len(split.train), len(split.train) + len(split.val)]


def test_equal_seeds_give_equal_weights(tmp_path: Path, split: Split) -> None:
    settings = dataclasses.replace(TINY, finetune_epochs=1, head_epochs=0)
    tensors = []
    for name in ("first", "second"):
        run = new_run(tmp_path, settings, name)
        Classifier(settings).fit(split, run)
        tensors.append(read_best(run.weights / BEST)[0])
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])

"""Finished runs without training: predictions are made up, and evaluated as usual."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from toolkit.data.images import read_truth
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.data.types import Dataset, Sample
from toolkit.prediction import Boxes, Prediction
from toolkit.runs.evaluate import evaluate
from toolkit.runs.prediction_io import write_predictions
from toolkit.runs.run import Run

HEAT = 64


def make_run(
    runs: Path,
    data: Path | Dataset,
    *,
    entry: str = "grey",
    outputs: Sequence[str] = (),
    fold: int = 0,
    folds: int = 3,
    seed: int = 0,
    plan_seed: int = 0,
    wrong: Sequence[str] = (),
    epochs: int = 0,
    metadata: dict[str, Any] | None = None,
) -> Run:
    """Make a finished run.

    Args:
        runs: the folder of all runs.
        data: the data set, or its folder.
        entry: name of the row.
        outputs: which of `boxes`, `mask`, `map`, `classes` it predicts beside a score.
        fold: which fold is tested.
        folds: number of folds.
        seed: of the run; other seeds give other scores.
        plan_seed: of the split; other seeds give other hashes.
        wrong: ids of test images with a wrong prediction.
        epochs: rows of `results.csv`.
        metadata: additional metadata of the run.
    """
    dataset = data if isinstance(data, Dataset) else load_dataset(data)
    split = make_plan(dataset, protocol="supervised", folds=folds, seed=plan_seed).fold(
        dataset, fold
    )
    run = Run.create(
        runs,
        method="grey",
        settings={"entry": entry},
        split={
            "hash": split.plan_hash,
            "protocol": split.protocol,
            "fold": fold,
            **{part: [s.id for s in getattr(split, part)] for part in ("train", "val", "test")},
        },
        data={
            "name": dataset.name,
            "root": str(dataset.root),
            "layout": dataset.layout,
            "fingerprint": dataset.fingerprint,
        },
        seed=seed,
    )
    labels = {"kind": "mask", "train": sum(s.is_defect for s in split.train), "val": 1}
    run.update_metadata(
        entry=entry, weights="none", weights_source="", score_description="made up", labels=labels,
        fit_seconds=1.0,
    )  # fmt: skip
    run.update_metadata(**(metadata or {}))
    for epoch in range(1, epochs + 1):
        run.add_result({"epoch": epoch, "lr": 0.1, "train_loss": 1 / epoch, "val_auroc": 0.5})
    for part in ("val", "test"):
        write_predictions(run.predictions, part, _predict(split, part, outputs, wrong, seed))
    run.finish(evaluate(run, dataset))
    return run


def _predict(
    split: Split, part: str, outputs: Sequence[str], wrong: Sequence[str], seed: int
) -> Iterator[Prediction]:
    random = np.random.default_rng(seed)
    for sample in getattr(split, part):
        found = sample.is_defect != (sample.id in wrong and part == "test")
        value = float(random.uniform(0.6, 0.9) if found else random.uniform(0.1, 0.4))
        truth = read_truth(sample)
        yield Prediction(
            sample_id=sample.id,
            score=value,
            class_probabilities=_classes(split.dataset, sample, found) if "classes" in outputs
            else None,
            boxes=_box(truth, sample, value) if "boxes" in outputs else None,
            mask=truth if "mask" in outputs else None,
            anomaly_map=_heat(truth, random) if "map" in outputs else None,
            seconds=0.01,
        )  # fmt: skip


def _classes(dataset: Dataset, sample: Sample, found: bool) -> dict[str, float]:
    names = ["good", *dataset.classes]
    predicted = (sample.label if sample.is_defect else dataset.classes[0]) if found else "good"
    return {name: 0.7 if name == predicted else 0.3 / (len(names) - 1) for name in names}


def _box(truth: np.ndarray, sample: Sample, value: float) -> Boxes:
    x, y, w, h = cv2.boundingRect(truth.astype(np.uint8))
    if not w:
        return Boxes.none()
    return Boxes(np.array([[x, y, x + w, y + h]], np.float32), np.array([value], np.float32),
                 (sample.label,))  # fmt: skip


def _heat(truth: np.ndarray, random: np.random.Generator) -> np.ndarray:
    small = cv2.resize(truth.astype(np.float32), (HEAT, HEAT), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), 3)
    return (blurred + random.normal(0, 0.05, blurred.shape)).astype(np.float32)

"""The classifier beside scikit-learn's logistic regression on frozen features.

    python benchmarks/classifier_head.py DATA... [--part val] [--image-sizes 224 320]

Prints the image AUROC, all folds of the protocol `supervised` pooled: of the classifier as
`configs/classifier/default.yaml` has it, trained where it is missing, and of logistic regression
with weighted classes and standardised features. `two depths` are the classifier's own features,
`own output` what the network gives to its ImageNet head. Settings are chosen by `--part val`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.d4 import IDENTITY
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.data.types import GOOD, Dataset
from toolkit.methods.classifier.data import ImageSet, frozen_features, load_resized
from toolkit.methods.classifier.network import build_network
from toolkit.methods.classifier.settings import ClassifierSettings
from toolkit.metrics.image import image_metrics
from toolkit.runs.evaluate import evaluate
from toolkit.training import TrainingTask, run_training

DEFAULT = ClassifierSettings()
FEATURES = {"two depths": DEFAULT.pooled_layers, "own output": ()}
STRENGTHS = (0.001, 0.01, 0.1, 1.0)


def main() -> None:
    """Train what is missing, fit, print one row per kind of features."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+", help="folders of categories")
    parser.add_argument("--part", choices=("val", "test"), default="val")
    parser.add_argument("--image-sizes", type=int, nargs="+", default=[DEFAULT.image_size])
    parser.add_argument("--runs", type=Path, default=Path("runs/classifier-head"))
    options = parser.parse_args()
    datasets = [load_dataset(folder) for folder in options.data]
    splits = [
        [plan.fold(data, k) for k in range(plan.folds)]
        for data, plan in ((d, make_plan(d)) for d in datasets)
    ]
    names = " | ".join(data.name for data in datasets)
    print(f"| {options.part} parts, five folds pooled | {names} | mean |")
    print(f"|---|{'---|' * (len(datasets) + 1)}")
    row = [_classifier(d, s, options) for d, s in zip(datasets, splits, strict=True)]
    _print("classifier, default", row)
    for size in options.image_sizes:
        for name, layers in FEATURES.items():
            features = [_features(data, layers, size) for data in datasets]
            for strength in STRENGTHS:
                row = [
                    _regression(x, folds, strength, options.part)
                    for x, folds in zip(features, splits, strict=True)
                ]
                _print(f"logistic regression, {name}, {size} px, C {strength:g}", row)


def _print(name: str, row: list[float]) -> None:
    cells = " | ".join(f"{value:.3f}" for value in (*row, float(np.mean(row))))
    print(f"| {name} | {cells} |", flush=True)


def _classifier(dataset: Dataset, splits: list[Split], options: argparse.Namespace) -> float:
    runs = [
        run_training(
            TrainingTask(method="classifier", entry="default", fold=s.fold, name=f"fold{s.fold}"),
            s, runs=options.runs / dataset.name, resume=True,
        )
        for s in splits
    ]  # fmt: skip
    return float(evaluate(runs, dataset, part=options.part)["image"]["auroc"])


def _features(dataset: Dataset, layers: tuple[str, ...], size: int) -> dict[str, np.ndarray]:
    model, _ = build_network(DEFAULT.network, 2, pooled_layers=layers, weights="pretrained")
    samples = dataset.samples
    images = ImageSet(
        load_resized(samples, dataset, size=size), None,  # type: ignore[arg-type]
        tuple(dataset.content[s.id] for s in samples),
    )  # fmt: skip
    found = frozen_features(
        model, images, transforms=(IDENTITY,), network=DEFAULT.network, title="features"
    )[0].numpy()
    return {s.id: row for s, row in zip(samples, found, strict=True)}


def _regression(
    features: dict[str, np.ndarray], splits: list[Split], strength: float, part: str
) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores, truth = [], []
    for split in splits:
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=strength, class_weight="balanced", max_iter=1000),
        )
        model.fit([features[s.id] for s in split.train], [s.label for s in split.train])
        judged = getattr(split, part)
        shares = model.predict_log_proba([features[s.id] for s in judged])
        good = list(model.classes_).index(GOOD)
        defect = np.logaddexp.reduce(np.delete(shares, good, axis=1), axis=1)
        scores += (defect - shares[:, good]).tolist()
        truth += [s.is_defect for s in judged]
    return float(image_metrics(np.array(scores), np.array(truth)).auroc)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

"""Figures of classifiers, class by class, over pooled folds, with intervals.

Intervals are those of the stratified bootstrap over test images, each class resampled by itself.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.types import GOOD
from toolkit.errors import RunError
from toolkit.metrics.bootstrap import Interval, image_intervals, resample_counts
from toolkit.metrics.image import image_metrics
from toolkit.runs.evaluate import judged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.types import Dataset
    from toolkit.runs.run import Run

_LEVELS = (0.025, 0.975)


@dataclass(frozen=True)
class Figure:
    """One figure with its 95 % interval.

    Attributes:
        value: on all test images.
        low, high: the ends of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassFigures:
    """How well the runs of one entry and one seed tell classes apart, all folds pooled.

    Attributes:
        entry: name of the entry.
        seed: of its random numbers.
        images: number of test images.
        figures: by name: `accuracy`, `ACSA` (mean recall), `macro F1`, `G-mean` (geometric mean of
            the recalls), `recall <class>`, and `AUROC` of good against defect.
    """

    entry: str
    seed: int
    images: int
    figures: Mapping[str, Figure]


def class_figures(runs: Sequence[Run], dataset: Dataset) -> ClassFigures:
    """Score the folds of one entry.

    Raises:
        RunError: the method gives no classes, or the data is not that of the runs.
    """
    parts = [judged(run, dataset, "test") for run in runs]
    samples = [sample for part in parts for sample in part.samples]
    predictions = [prediction for part in parts for prediction in part.light]
    given = [p.class_probabilities for p in predictions]
    known = [shares for shares in given if shares is not None]
    if len(known) < len(given) or not known:
        raise RunError(f"{runs[0].path}: {runs[0].method} gives no classes; name a classifier")
    names = [GOOD, *sorted({name for shares in known for name in shares} - {GOOD})]
    binary = not set(names) & set(dataset.classes)
    truth = [names[-1] if binary and s.is_defect else s.label for s in samples]
    said = [max(shares, key=shares.__getitem__) for shares in known]
    index = {name: i for i, name in enumerate(names)}
    figures = _scored(
        np.array([index[name] for name in truth]), np.array([index[name] for name in said]), names
    )
    scores = np.array([p.score for p in predictions])
    is_defect = np.array([s.is_defect for s in samples])
    labels = [s.label for s in samples]
    auroc = image_metrics(scores, is_defect).auroc
    interval = image_intervals(scores, is_defect, defect_types=labels)["auroc"]
    if isinstance(auroc, float) and isinstance(interval, Interval):
        figures["AUROC"] = Figure(auroc, interval.low, interval.high)
    entry = str(runs[0].facts.get("entry", runs[0].method))
    return ClassFigures(entry, runs[0].seed, len(samples), figures)


def _scored(
    truth: NDArray[np.intp], said: NDArray[np.intp], names: Sequence[str]
) -> dict[str, Figure]:
    """Score int (n,) answers, and every resample of the images at once."""
    k = len(names)
    cells = np.zeros((len(truth), k * k), np.int64)
    cells[np.arange(len(truth)), truth * k + said] = 1
    counts = resample_counts([names[i] for i in truth])
    whole = _measures(cells.sum(axis=0).reshape(1, k, k), names)
    drawn = _measures((counts @ cells).reshape(-1, k, k), names)
    return {
        name: Figure(float(value[0]), *(float(np.quantile(drawn[name], q)) for q in _LEVELS))
        for name, value in whole.items()
    }


def _measures(confusion: NDArray[np.int64], names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return each figure of confusion matrices (m, K, K) whose rows are true classes."""
    right = np.diagonal(confusion, axis1=1, axis2=2)
    true, said = confusion.sum(axis=2), confusion.sum(axis=1)
    present = true[0] > 0  # the same in every resample, which keeps the size of each class
    recall = right[:, present] / true[:, present]
    f1 = 2 * right[:, present] / (true + said)[:, present]
    figures = {
        "accuracy": right.sum(axis=1) / confusion.sum(axis=(1, 2)),
        "ACSA": recall.mean(axis=1),
        "macro F1": f1.mean(axis=1),
        "G-mean": recall.prod(axis=1) ** (1 / recall.shape[1]),
    }
    there = [name for name, is_there in zip(names, present, strict=True) if is_there]
    figures |= {f"recall {name}": recall[:, i] for i, name in enumerate(there)}
    return figures


def figures_table(found: Sequence[ClassFigures]) -> str:
    """Write a Markdown table, one line per entry; of several seeds mean and standard deviation."""
    columns = list(dict.fromkeys(name for one in found for name in one.figures))
    entries: dict[str, list[ClassFigures]] = {}
    for one in found:
        entries.setdefault(one.entry, []).append(one)
    lines = ["| entry | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for entry, seeds in entries.items():
        cells = [_cell([one.figures.get(name) for one in seeds]) for name in columns]
        lines.append(f"| {entry} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(figures: Sequence[Figure | None]) -> str:
    values: list[Any] = [figure.value for figure in figures if figure is not None]
    if len(values) < len(figures) or not figures:
        return "-"
    if len(values) > 1:
        return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
    (figure,) = figures
    assert figure is not None
    return f"{figure.value:.3f} [{figure.low:.2f}, {figure.high:.2f}]"

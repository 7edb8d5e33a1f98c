"""Classification metrics from one predicted class per image, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.metrics.bootstrap import MaybeInterval, interval_of, resample_counts
from toolkit.metrics.values import MetricError, Undefined, Value, mean_of


@dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics of one classifier; means go over the classes that have images.

    Attributes:
        n_images: number of images.
        accuracy: share of correct predictions.
        balanced_accuracy: mean recall (ACSA, average class-specific accuracy).
        macro_f1: mean F1.
        geometric_mean: geometric mean of the recalls; 0 when one class is never recognised.
        recall_by_class: recall of each class.
        confusion: int[K][K], rows are true classes, columns predicted ones.
    """

    n_images: int
    accuracy: Value
    balanced_accuracy: Value
    macro_f1: Value
    geometric_mean: Value
    recall_by_class: Mapping[str, Value]
    confusion: tuple[tuple[int, ...], ...]


def classification_metrics(
    true_labels: ArrayLike, predicted_labels: ArrayLike, *, class_names: Sequence[str]
) -> ClassificationMetrics:
    """Score one predicted class per image.

    Args:
        true_labels: int[n], index into the class names.
        predicted_labels: int[n].
        class_names: name of each label.

    Raises:
        MetricError: the lengths differ, there is no image, or a label has no name.
    """
    k = len(class_names)
    truth, pred = _checked(true_labels, predicted_labels, k)
    confusion = np.bincount(truth * k + pred, minlength=k * k).reshape(k, k)
    right = np.diagonal(confusion)
    n_true, n_pred = confusion.sum(axis=1), confusion.sum(axis=0)
    recalls: list[Value] = [
        int(right[i]) / int(n_true[i]) if n_true[i] else Undefined("no images of this class")
        for i in range(k)
    ]
    known = [recall for recall in recalls if not isinstance(recall, Undefined)]
    f1s = [2 * int(right[i]) / int(n_true[i] + n_pred[i]) for i in range(k) if n_true[i]]
    return ClassificationMetrics(
        n_images=truth.size,
        accuracy=int(right.sum()) / truth.size,
        balanced_accuracy=mean_of(recalls, reason="no images"),
        macro_f1=math.fsum(f1s) / len(f1s),
        geometric_mean=math.prod(known) ** (1 / len(known)),
        recall_by_class=dict(zip(class_names, recalls, strict=True)),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def classification_intervals(
    true_labels: ArrayLike,
    predicted_labels: ArrayLike,
    *,
    class_names: Sequence[str],
    strata: Sequence[object] | None = None,
) -> dict[str, MaybeInterval]:
    """Return 95 % intervals by the stratified bootstrap over images.

    Args:
        true_labels: int[n], index into the class names.
        predicted_labels: int[n].
        class_names: name of each label.
        strata: the stratum of each image, within one class; the class itself if None.

    Returns:
        By the names of `classification_resamples`.

    Raises:
        MetricError: see `classification_metrics`.
    """
    truth, pred = _checked(true_labels, predicted_labels, len(class_names))
    counts = resample_counts(truth.tolist() if strata is None else strata)
    values = classification_resamples(truth, pred, counts, class_names=class_names)
    return {name: interval_of(value, counts) for name, value in values.items()}


def classification_resamples(
    true_labels: ArrayLike,
    predicted_labels: ArrayLike,
    counts: NDArray[np.int64],
    *,
    class_names: Sequence[str],
) -> dict[str, NDArray[np.float64]]:
    """Return each metric on each resample.

    Args:
        true_labels: int[n], index into the class names.
        predicted_labels: int[n].
        counts: int64[resamples, n] of `resample_counts`, with strata within a class, so that every
            resample has as many images of each class as the set itself.
        class_names: name of each label.

    Returns:
        float64[resamples] under `accuracy`, `balanced_accuracy`, `macro_f1`, `geometric_mean`, and
        `recall_by_class.<name>` of each class that has images.

    Raises:
        MetricError: see `classification_metrics`.
    """
    k = len(class_names)
    truth, pred = _checked(true_labels, predicted_labels, k)
    cells = np.zeros((truth.size, k * k), np.int64)
    cells[np.arange(truth.size), truth * k + pred] = 1
    confusion = (counts @ cells).reshape(-1, k, k)
    present = np.flatnonzero(np.bincount(truth, minlength=k)).tolist()
    right = np.diagonal(confusion, axis1=1, axis2=2)[:, present]
    n_true = confusion.sum(axis=2)[:, present]
    n_pred = confusion.sum(axis=1)[:, present]
    recall = right / n_true
    return {
        "accuracy": right.sum(axis=1) / truth.size,
        "balanced_accuracy": recall.mean(axis=1),
        "macro_f1": (2 * right / (n_true + n_pred)).mean(axis=1),
        "geometric_mean": recall.prod(axis=1) ** (1 / len(present)),
        **{f"recall_by_class.{class_names[c]}": recall[:, i] for i, c in enumerate(present)},
    }


def _checked(
    true_labels: ArrayLike, predicted_labels: ArrayLike, k: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    truth, pred = np.asarray(true_labels), np.asarray(predicted_labels)
    if truth.shape != pred.shape or truth.ndim != 1 or truth.size == 0:
        raise MetricError(f"{pred.shape} predictions for {truth.shape} images: give one for each")
    for labels in (truth, pred):
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= k:
            raise MetricError(f"a label is no index into the {k} class names")
    return truth.astype(np.intp), pred.astype(np.intp)

"""Image-level metrics: one anomaly score per image against good or defect.

Scores are taken raw: they are ranked, never squashed or normalised, so any increasing
transformation of them gives the same AUROC, AP and F1-max. An image is flagged when
`score >= threshold`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.metrics import roc
from toolkit.metrics.roc import Curve, alarm_curve, checked_pair
from toolkit.metrics.values import MetricError, Undefined, Value

NO_DEFECT = Undefined("no defect images")
NO_GOOD = Undefined("no good images")
NO_THRESHOLD = Undefined("no threshold was given")


@dataclass(frozen=True)
class DecisionMetrics:
    """Quality of the decisions good/defect at one threshold.

    Attributes:
        tp, fp, tn, fn: counts of images; positive means "flagged as defect".
        f1: F1 of the class defect.
        precision: share of flagged images that are defects.
        recall: share of defect images that are flagged.
        false_alarm_rate: share of good images that are flagged.
        accuracy: share of right decisions.
        balanced_accuracy: mean of recall and of the share of good images that pass.
    """

    tp: int
    fp: int
    tn: int
    fn: int
    f1: Value
    precision: Value
    recall: Value
    false_alarm_rate: Value
    accuracy: Value
    balanced_accuracy: Value


@dataclass(frozen=True)
class ImageMetrics:
    """Image-level metrics of one method on one set of images.

    Attributes:
        n_good, n_defect: number of images.
        auroc: area under the ROC curve, ties counted half.
        average_precision: area under the precision-recall curve, not interpolated.
        f1_max: best F1 over all thresholds. Chosen on these very images, hence optimistic.
        f1_max_threshold: the (highest) score that gives it.
        tpr_at_fpr_1, tpr_at_fpr_5: best recall with at most 1 % (5 %) of the
            good images flagged.
        fpr_at_tpr_95: lowest share of good images flagged with at least 95 % of the
            defect images flagged.
        decisions: quality at the given threshold, which was chosen elsewhere.
        auroc_by_type: AUROC of each defect type against all good images.
        recall_by_type: share of each defect type that is flagged at the given threshold.
    """

    n_good: int
    n_defect: int
    auroc: Value
    average_precision: Value
    f1_max: Value
    f1_max_threshold: Value
    tpr_at_fpr_1: Value
    tpr_at_fpr_5: Value
    fpr_at_tpr_95: Value
    decisions: DecisionMetrics | Undefined
    auroc_by_type: Mapping[str, Value]
    recall_by_type: Mapping[str, Value]


def image_metrics(
    scores: ArrayLike,
    is_defect: ArrayLike,
    *,
    threshold: float | ArrayLike | None = None,
    defect_types: Sequence[str] | None = None,
) -> ImageMetrics:
    """Score one anomaly score per image.

    Args:
        scores: float[n], raw, higher is worse.
        is_defect: bool[n].
        threshold: flags `score >= threshold`; one number, or float[n] where images were predicted
            by models of several folds, each with its own threshold. Choose it on other images.
        defect_types: the defect type of each image, for `auroc_by_type`; ignored for good
            images.

    Raises:
        MetricError: shapes do not fit, there is no image, or a score is NaN or infinite.
    """
    array, truth = checked_pair(scores, is_defect)
    curve = alarm_curve(array, truth)
    f1_max, f1_max_threshold = _f1_max(curve)
    return ImageMetrics(
        n_good=int(curve.n_good),
        n_defect=int(curve.n_defect),
        auroc=_of_both(curve, roc.auroc),
        average_precision=NO_DEFECT if not curve.n_defect else float(roc.average_precision(curve)),
        f1_max=f1_max,
        f1_max_threshold=f1_max_threshold,
        tpr_at_fpr_1=_of_both(curve, lambda it: roc.tpr_at_fpr(it, 0.01)),
        tpr_at_fpr_5=_of_both(curve, lambda it: roc.tpr_at_fpr(it, 0.05)),
        fpr_at_tpr_95=_of_both(curve, lambda it: roc.fpr_at_tpr(it, 0.95)),
        decisions=NO_THRESHOLD
        if threshold is None
        else decision_metrics(flagged(array, threshold), truth),
        auroc_by_type=_auroc_by_type(array, truth, defect_types),
        recall_by_type=_recall_by_type(array, truth, defect_types, threshold),
    )


def flagged(scores: ArrayLike, threshold: float | ArrayLike) -> NDArray[np.bool_]:
    """Return bool[n]: which images are called defect, `score >= threshold`, compared in float64.

    Args:
        scores: float[n].
        threshold: one number or float[n].

    Raises:
        MetricError: a threshold is NaN, or there is neither one nor one per image.
    """
    array = np.asarray(scores, dtype=np.float64)
    limit = np.asarray(threshold, dtype=np.float64)
    if limit.ndim and limit.shape != array.shape:
        raise MetricError(f"{limit.size} thresholds for {array.size} images: give one, or one each")
    if np.isnan(limit).any():
        raise MetricError("the threshold is NaN: choose one on validation images")
    return np.asarray(array >= limit)


def decision_metrics(is_flagged: ArrayLike, is_defect: ArrayLike) -> DecisionMetrics:
    """Score decisions.

    Args:
        is_flagged: bool[n], images called defect.
        is_defect: bool[n], images that are.

    Raises:
        MetricError: the lengths differ or there is no image.
    """
    flags, truth = np.asarray(is_flagged, dtype=np.bool_), np.asarray(is_defect, dtype=np.bool_)
    if flags.shape != truth.shape or flags.ndim != 1 or flags.size == 0:
        raise MetricError(f"{flags.shape} decisions for {truth.shape} images: give one for each")
    tp, fp = int(np.sum(flags & truth)), int(np.sum(flags & ~truth))
    fn, tn = int(np.sum(~flags & truth)), int(np.sum(~flags & ~truth))
    recall: Value = tp / (tp + fn) if tp + fn else NO_DEFECT
    false_alarm_rate: Value = fp / (fp + tn) if fp + tn else NO_GOOD
    return DecisionMetrics(
        tp=tp,
        fp=fp,
        tn=tn,
        fn=fn,
        f1=2 * tp / (2 * tp + fp + fn) if tp + fn else NO_DEFECT,
        precision=tp / (tp + fp) if tp + fp else Undefined("no image was flagged"),
        recall=recall,
        false_alarm_rate=false_alarm_rate,
        accuracy=(tp + tn) / flags.size,
        balanced_accuracy=_balanced(recall, false_alarm_rate),
    )


def _balanced(recall: Value, false_alarm_rate: Value) -> Value:
    if isinstance(recall, Undefined):
        return recall
    if isinstance(false_alarm_rate, Undefined):
        return false_alarm_rate
    return (recall + 1.0 - false_alarm_rate) / 2


def _of_both(curve: Curve, metric: Callable[[Curve], NDArray[np.float64]]) -> Value:
    """Return a metric that needs defect and good images."""
    if not curve.n_defect:
        return NO_DEFECT
    if not curve.n_good:
        return NO_GOOD
    return float(metric(curve))


def _f1_max(curve: Curve) -> tuple[Value, Value]:
    if not curve.n_defect:
        return NO_DEFECT, NO_DEFECT
    scores = roc.f1_scores(curve)
    # argmax takes the first of equals: thresholds fall, so the one with the fewest alarms.
    best = int(np.argmax(scores))
    return float(scores[best]), float(curve.thresholds[best])


def _auroc_by_type(
    scores: NDArray[np.float64], truth: NDArray[np.bool_], defect_types: Sequence[str] | None
) -> dict[str, Value]:
    if defect_types is None:
        return {}
    if len(defect_types) != scores.size:
        raise MetricError(
            f"{len(defect_types)} defect types for {scores.size} images: give one each"
        )
    types = np.asarray(defect_types, dtype=object)
    by_type: dict[str, Value] = {}
    for name in sorted(set(types[truth])):
        chosen = ~truth | (types == name)
        by_type[name] = _of_both(alarm_curve(scores[chosen], truth[chosen]), roc.auroc)
    return by_type


def _recall_by_type(
    scores: NDArray[np.float64],
    truth: NDArray[np.bool_],
    defect_types: Sequence[str] | None,
    threshold: float | ArrayLike | None,
) -> dict[str, Value]:
    if defect_types is None:
        return {}
    types = np.asarray(defect_types, dtype=object)
    names = sorted(set(types[truth]))
    if threshold is None:
        return dict.fromkeys(names, NO_THRESHOLD)
    flags = flagged(scores, threshold)
    return {name: float(np.mean(flags[truth & (types == name)])) for name in names}

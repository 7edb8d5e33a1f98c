"""Confidence intervals by the stratified bootstrap over images.

Images are drawn with replacement within each stratum (good, and each defect type), so every
resample has as many images of each type as the test set. An interval is the middle 95 % of the
resampled values (percentile method, Efron 1979). Resamples are held as counts per image, so that
all of them are scored on one ranking. Equal strata and seed give equal resamples: methods scored on
the same images are thereby paired.

A resample can only hold images that are there. Where a method ranks every image right, all
resamples do, and the interval has no width: read it as "no error among these few images".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.metrics import roc
from toolkit.metrics.image import flagged
from toolkit.metrics.roc import alarm_curve, checked_pair, checked_scores
from toolkit.metrics.values import MetricError, Undefined

N_RESAMPLES = 1000
LEVEL = 0.95
TOO_FEW = Undefined("no stratum holds two images")


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, both ends included."""

    low: float
    high: float


MaybeInterval: TypeAlias = Interval | Undefined


def resample_counts(
    strata: Sequence[object], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> NDArray[np.int64]:
    """Return int64[n_resamples, n], how often each image is drawn in each resample.

    Args:
        strata: the stratum of each image; anything that can be compared for equality as text.
        n_resamples: number of resamples.
        seed: of the draws.

    Raises:
        MetricError: there is no image.
    """
    if not len(strata):
        raise MetricError("no images to resample")
    names = np.asarray([str(stratum) for stratum in strata])
    rng = np.random.default_rng(seed)
    counts = np.zeros((n_resamples, names.size), dtype=np.int64)
    for name in np.unique(names):
        members = np.flatnonzero(names == name)
        share = np.full(members.size, 1.0 / members.size)
        counts[:, members] = rng.multinomial(members.size, share, size=n_resamples)
    return counts


def seed_shares(
    n_seeds: int, *, n_resamples: int = N_RESAMPLES, seed: int = 1
) -> NDArray[np.float64]:
    """Return float64[n_resamples, n_seeds], the weight of each training seed in each resample.

    The weights of a resample add up to 1, and are so drawn that the weighted sum of n values with
    standard deviation s is their mean plus s/√n times a draw of Student's t with n - 1 degrees of
    freedom: without other spread, the middle 95 % is the t interval of the mean. Drawing seeds with
    replacement would call too many equal methods different where seeds are few. One seed has the
    weight 1: nothing is then known of the spread.

    Args:
        n_seeds: number of seeds, at least 1.
        n_resamples: number of resamples.
        seed: of the draws; another one than that of `resample_counts`.

    Example:
        >>> seed_shares(2, n_resamples=3).sum(axis=1).round(6).tolist()
        [1.0, 1.0, 1.0]
    """
    if n_seeds == 1:
        return np.ones((n_resamples, 1))
    rng = np.random.default_rng(seed)
    free = n_seeds - 1
    normal = rng.standard_normal((n_resamples, n_seeds))
    contrast = normal - normal.mean(axis=1, keepdims=True)
    heavy = np.sqrt(free / rng.chisquare(free, size=(n_resamples, 1)))
    return np.asarray(1.0 / n_seeds + heavy * contrast / np.sqrt(n_seeds * free))


def image_intervals(
    scores: ArrayLike,
    is_defect: ArrayLike,
    *,
    threshold: float | ArrayLike | None = None,
    defect_types: Sequence[str] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, MaybeInterval]:
    """Return intervals of the image-level metrics.

    Args:
        scores: float[n], raw, higher is worse.
        is_defect: bool[n].
        threshold: as for `image_metrics`; without it there are no intervals of decisions.
        defect_types: the defect type of each image, to resample each type by itself.
        n_resamples: number of resamples.
        seed: of the draws.

    Returns:
        By the name of the field of `ImageMetrics` or `DecisionMetrics`: auroc, average_precision,
        f1_max, tpr_at_fpr_1, tpr_at_fpr_5, fpr_at_tpr_95; with a
        threshold also f1, recall, false_alarm_rate, accuracy, balanced_accuracy.

    Raises:
        MetricError: see `image_metrics`.
    """
    array, truth = checked_pair(scores, is_defect)
    counts = _counts(truth, defect_types, n_resamples=n_resamples, seed=seed)
    values = image_resamples(array, truth, counts, is_flagged=_flags(array, threshold))
    return {name: interval_of(value, counts) for name, value in values.items()}


def image_difference_intervals(
    scores: ArrayLike,
    other_scores: ArrayLike,
    is_defect: ArrayLike,
    *,
    threshold: float | ArrayLike | None = None,
    other_threshold: float | ArrayLike | None = None,
    defect_types: Sequence[str] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, MaybeInterval]:
    """Return intervals of the metrics of one method minus those of another on the same images.

    Both are scored on the same resamples (paired), which cancels the difficulty that they share.
    Where the interval does not hold 0, the methods differ at the 5 % level.

    Args:
        scores: float[n] of the one method.
        other_scores: float[n] of the other, for the same images in the same order.
        is_defect: bool[n].
        threshold: of the one method; decisions are compared only where both are given.
        other_threshold: of the other.
        defect_types: the defect type of each image.
        n_resamples: number of resamples.
        seed: of the draws.

    Raises:
        MetricError: see `image_metrics`.
    """
    array, truth = checked_pair(scores, is_defect)
    other, _ = checked_pair(other_scores, is_defect)
    counts = _counts(truth, defect_types, n_resamples=n_resamples, seed=seed)
    mine = image_resamples(array, truth, counts, is_flagged=_flags(array, threshold))
    theirs = image_resamples(other, truth, counts, is_flagged=_flags(other, other_threshold))
    return {
        name: interval_of(_minus(mine[name], theirs[name]), counts)
        for name in mine
        if name in theirs
    }


def bootstrap_mean(
    values: ArrayLike,
    strata: Sequence[object],
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> MaybeInterval:
    """Return the interval of a mean over images, such as a mean IoU.

    For two methods on the same images pass the differences of their values: that is the paired
    interval of the difference of means.

    Args:
        values: float[n], one per image.
        strata: the stratum of each image.
        n_resamples: number of resamples.
        seed: of the draws.

    Raises:
        MetricError: the lengths differ, there is no image, or a value is NaN or infinite.
    """
    array = checked_scores(values)
    if len(strata) != array.size:
        raise MetricError(f"{len(strata)} strata for {array.size} values: give one for each")
    counts = resample_counts(strata, n_resamples=n_resamples, seed=seed)
    return interval_of(counts @ array / array.size, counts)


def _counts(
    truth: NDArray[np.bool_],
    defect_types: Sequence[str] | None,
    *,
    n_resamples: int,
    seed: int,
) -> NDArray[np.int64]:
    if defect_types is not None and len(defect_types) != truth.size:
        raise MetricError(
            f"{len(defect_types)} defect types for {truth.size} images: give one each"
        )
    # Good images are one stratum, whatever their type is.
    strata = [
        ("defect", "" if defect_types is None else defect_types[i]) if defect else ("good", "")
        for i, defect in enumerate(truth)
    ]
    return resample_counts(strata, n_resamples=n_resamples, seed=seed)


def image_resamples(
    scores: NDArray[np.float64],
    is_defect: NDArray[np.bool_],
    counts: NDArray[np.int64],
    *,
    is_flagged: NDArray[np.bool_] | None = None,
) -> Mapping[str, NDArray[np.float64] | Undefined]:
    """Return each image-level metric on each resample.

    Every resample holds as many defect and good images as the set itself, so a metric has a value
    on all of them or on none.

    Args:
        scores: float64[n], higher is worse.
        is_defect: bool[n].
        counts: int64[resamples, n] of `resample_counts`, with strata that part good from defect.
        is_flagged: bool[n]; without it there are no metrics of decisions.

    Returns:
        float64[resamples] by the name of the metric, see `image_intervals`.
    """
    truth = is_defect
    curve = alarm_curve(scores, truth, counts=counts)
    no_defect = None if truth.any() else Undefined("no defect images")
    missing = no_defect or (Undefined("no good images") if truth.all() else None)
    values: dict[str, NDArray[np.float64] | Undefined] = {
        "auroc": missing or roc.auroc(curve),
        "average_precision": no_defect or roc.average_precision(curve),
        "f1_max": no_defect or roc.f1_scores(curve).max(axis=-1),
        "tpr_at_fpr_1": missing or roc.tpr_at_fpr(curve, 0.01),
        "tpr_at_fpr_5": missing or roc.tpr_at_fpr(curve, 0.05),
        "fpr_at_tpr_95": missing or roc.fpr_at_tpr(curve, 0.95),
    }
    if is_flagged is None:
        return values
    n_defect, n_good = int(truth.sum()), int((~truth).sum())
    tp, fp = counts @ (is_flagged & truth), counts @ (is_flagged & ~truth)
    values["f1"] = no_defect or 2.0 * tp / (tp + fp + n_defect)
    values["recall"] = no_defect or tp / n_defect
    values["false_alarm_rate"] = fp / n_good if n_good else Undefined("no good images")
    values["accuracy"] = (tp + n_good - fp) / truth.size
    values["balanced_accuracy"] = missing or (tp / n_defect + 1.0 - fp / n_good) / 2
    return values


def _flags(
    scores: NDArray[np.float64], threshold: float | ArrayLike | None
) -> NDArray[np.bool_] | None:
    return None if threshold is None else flagged(scores, threshold)


def _minus(
    mine: NDArray[np.float64] | Undefined, theirs: NDArray[np.float64] | Undefined
) -> NDArray[np.float64] | Undefined:
    if isinstance(mine, Undefined):
        return mine
    return theirs if isinstance(theirs, Undefined) else mine - theirs


def interval_of(
    values: NDArray[np.float64] | Undefined, counts: NDArray[np.int64]
) -> MaybeInterval:
    """Return the middle 95 % of resampled values.

    Args:
        values: float64[resamples].
        counts: int64[resamples, n] that they were made with.
    """
    if isinstance(values, Undefined):
        return values
    if counts.max() == 1:
        # Each stratum is one image: every resample is the set itself.
        return TOO_FEW
    tail = (1.0 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return Interval(low=float(low), high=float(high))

"""Metrics of runs from their stored predictions: equal predictions give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from toolkit.data.types import GOOD, Dataset, Sample
from toolkit.decisions.calibration import clopper_pearson, promised_rate
from toolkit.errors import RunError
from toolkit.files import read_json
from toolkit.metrics.bootstrap import Interval, MaybeInterval, image_intervals
from toolkit.metrics.classification import classification_intervals, classification_metrics
from toolkit.metrics.image import NO_DEFECT, NO_GOOD, NO_THRESHOLD, flagged, image_metrics
from toolkit.metrics.threshold import f1_threshold, false_alarm_threshold
from toolkit.metrics.values import MetricError, Undefined, Value, to_json
from toolkit.prediction import Prediction
from toolkit.runs.costs import costs
from toolkit.runs.localization_metrics import (
    Truth,
    anomaly_map_metrics,
    detection_metrics,
    measure_truth,
    segmentation_metrics,
)
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.record import check_record
from toolkit.runs.run import Run
from toolkit.runs.scored_predictions import ScoredPredictions, load_scored_predictions
from toolkit.runs.speed import measured_speed

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA = 1
REPORT = "report.json"
RunLike: TypeAlias = Run | Path | str


def evaluate(
    runs: RunLike | Sequence[RunLike],
    dataset: Dataset | None = None,
    *,
    part: Literal["test", "val"] = "test",
) -> dict[str, Any]:
    """Compute the metrics of one run, or of the runs of several folds pooled.

    Nothing is written. Each fold keeps the threshold that its own validation part chose.

    Example:
        >>> metrics = evaluate("runs/patchcore/001")  # doctest: +SKIP
        >>> metrics["image"]["auroc"]  # doctest: +SKIP
        0.997

    Args:
        runs: a run or its directory, or the folds of one entry.
        dataset: their data; read from where the runs were made on it if None.
        part: `val` scores the validation parts, by which settings are chosen; metrics at the
            threshold are optimistic there, since it was chosen on the same images.

    Returns:
        JSON values with sorted keys; every metric is a number or `{"value": null, "reason": …}`.
        Under `report` what the method reported itself, averaged over the folds (of `test` only).

    Raises:
        RunError: predictions are missing, damaged, not finite, or not of these images.
        DataError: the data is not there.
    """
    given = [runs] if isinstance(runs, Run | Path | str) else list(runs)
    opened = [run if isinstance(run, Run) else Run.open(run) for run in given]
    if not opened:
        raise RunError("no run to evaluate; name at least one")
    if dataset is None:
        dataset = dataset_of(opened[0])
    try:
        metrics = _evaluate(opened, dataset, part)
    except MetricError as error:
        raise RunError(f"{opened[0].path}: {error}; run the method again") from error
    reports = [read_report(run) for run in opened]
    if part == "test" and all(report is not None for report in reports):
        metrics["report"] = mean_tree(reports)
    return metrics


def dataset_of(run: Run, *, moved_to: Path | None = None) -> Dataset:
    """Read the data set that a run was made on.

    Args:
        run: the run.
        moved_to: where the data lies now, if it was moved.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    from toolkit.data.layouts import load_dataset

    check_record(run, ("data.root", "data.layout"))
    data = run.record["data"]
    return load_dataset(moved_to or data["root"], layout=data["layout"])


def choose_threshold(run: Run, dataset: Dataset) -> float | None:
    """Choose the image-level threshold on the run's validation part; None where it is empty.

    A method with a setting `target_fpr` above 0 gets the threshold that flags at most this share of
    the good validation images, without using defects; all others the one with the best F1.

    Raises:
        RunError: the setting is no number.
    """
    val = load_scored_predictions(run, dataset, "val")
    rate = run.record["settings"].get("target_fpr", 0)
    if not isinstance(rate, int | float):
        raise RunError(f"{run.path}/run.json: damaged (target_fpr); make the run again")
    if rate and not val.is_defect.all():
        return false_alarm_threshold(val.scores[~val.is_defect], rate)
    return f1_threshold(val.scores, val.is_defect) if len(val.samples) else None


def read_report(run: Run) -> Any:
    """Return what the method reported of the run; None if it did not.

    Raises:
        RunError: the file is damaged.
    """
    file = run.path / REPORT
    if not file.is_file():
        return None
    report = read_json(file)
    try:
        return to_json(report)
    except MetricError as error:
        raise RunError(f"{file}: damaged ({error}); run the method again") from error


def mean_tree(trees: Sequence[Any]) -> Any:
    """Average trees of metrics leaf by leaf; what is not a number in all of them is left out.

    A metric without a value in one tree has none in the mean. A single tree is returned as it is.
    """
    first = trees[0]
    if len(trees) == 1:
        return first
    undefined = [tree for tree in trees if isinstance(tree, Mapping) and "reason" in tree]
    if undefined:
        return undefined[0]
    if all(isinstance(tree, Mapping) for tree in trees):
        shared = [key for key in first if all(key in tree for tree in trees)]
        means = {key: mean_tree([tree[key] for tree in trees]) for key in shared}
        return {key: mean for key, mean in means.items() if mean is not None}
    if all(isinstance(tree, int | float) and not isinstance(tree, bool) for tree in trees):
        return sum(trees) / len(trees)
    return None


def _evaluate(
    runs: Sequence[Run], dataset: Dataset, part: Literal["test", "val"]
) -> dict[str, Any]:
    parts = [load_scored_predictions(run, dataset, part) for run in runs]
    samples = [s for part in parts for s in part.samples]
    predictions = [p for part in parts for p in part.predictions]
    thresholds = [choose_threshold(run, dataset) for run in runs]
    scores = np.concatenate([part.scores for part in parts])
    is_defect = np.concatenate([part.is_defect for part in parts])
    threshold = _per_image(thresholds, parts)
    types = [s.label for s in samples]
    image = to_json(image_metrics(scores, is_defect, threshold=threshold, defect_types=types))
    intervals: dict[str, Any] = dict(
        image_intervals(scores, is_defect, threshold=threshold, defect_types=types)
    )
    truths = [measure_truth(s) for s in samples]
    image.update(_by_size(scores, is_defect, threshold, truths))
    images = _images(samples, truths, scores, threshold)
    at_threshold, exact = _at_threshold(runs, dataset, scores, is_defect, threshold)
    intervals.update(exact)
    metrics: dict[str, Any] = {
        "schema": SCHEMA,
        "thresholds": thresholds,
        "image": image,
        "at_threshold": at_threshold,
        "intervals": intervals,
        "images": images,
        "speed": {**_speed(parts), **costs(runs)},
    }
    if all(p.boxes is not None for p in predictions):
        boxes = detection_metrics(samples, truths, predictions, dataset.region_classes)
        metrics["boxes"], metrics["detections"] = boxes.metrics, boxes.units
        intervals.update(boxes.intervals)
    if all(p.class_probabilities is not None for p in predictions):
        names, true, predicted = _classes(samples, predictions, dataset.classes)
        index = {name: i for i, name in enumerate(names)}
        labels = [index[t] for t in true], [index[p] for p in predicted]
        metrics["classification"] = {
            "classes": names,
            **to_json(classification_metrics(*labels, class_names=names)),
        }
        spread = classification_intervals(*labels, class_names=names, strata=types)
        intervals.update({f"classification.{name}": one for name, one in spread.items()})
        images.update(true_classes=true, pred_classes=predicted)
    if _has(parts, "mask"):
        masks = segmentation_metrics(parts, truths)
        metrics["masks"] = masks.metrics
        images.update(masks.units)
        intervals.update(masks.intervals)
    # Pixels of a defect of which no mask is known would count as good ones.
    if _has(parts, "anomaly_map") and all(s.has_mask for s in samples if s.is_defect):
        maps = anomaly_map_metrics(parts)
        metrics["pixel"], metrics["regions"] = maps.metrics, maps.units
        intervals.update(maps.intervals)
    result: dict[str, Any] = to_json(metrics)
    return result


def _at_threshold(
    runs: Sequence[Run],
    dataset: Dataset,
    scores: NDArray[np.float64],
    is_defect: NDArray[np.bool_],
    threshold: NDArray[np.float64] | None,
) -> tuple[dict[str, Any], dict[str, MaybeInterval]]:
    """Return wrong decisions as counts and shares, with the Clopper-Pearson intervals of these.

    `val_good` and `val_defect` are the images that the threshold was chosen with; of several folds,
    those of the fold that has the fewest.
    """
    found: dict[str, Any] = {}
    intervals: dict[str, MaybeInterval] = {}
    is_flagged = None if threshold is None else flagged(scores, threshold)
    for count, rate, concerned, wrong, missing in (
        ("escapes", "escape_rate", is_defect, False, NO_DEFECT),
        ("overkill", "overkill_rate", ~is_defect, True, NO_GOOD),
    ):
        total = int(concerned.sum())
        if is_flagged is None or not total:
            reason = missing if not total else NO_THRESHOLD
            found[count] = found[rate] = intervals[count] = intervals[rate] = reason
            continue
        found[count] = int((is_flagged[concerned] == wrong).sum())
        found[rate] = found[count] / total
        low, high = clopper_pearson(found[count], total)
        intervals[rate] = Interval(low, high)
        intervals[count] = Interval(low * total, high * total)
    ids = [[dataset.by_id[name] for name in run.record["split"]["val"]] for run in runs]
    fewest = min(ids, key=len)
    found["val_defect"] = sum(sample.is_defect for sample in fewest)
    found["val_good"] = len(fewest) - found["val_defect"]
    found["val_images"] = len(fewest)
    found["promised_overkill_rate"] = _promise(runs, dataset)
    return found, intervals


def _promise(runs: Sequence[Run], dataset: Dataset) -> Value:
    """Return the largest share of good products that the thresholds promise to flag at most.

    At 95 % confidence, by the order statistic; of several folds, that of the weakest.
    """
    promised = []
    for run in runs:
        val = load_scored_predictions(run, dataset, "val")
        threshold = choose_threshold(run, dataset)
        if threshold is None:
            return NO_THRESHOLD
        if val.is_defect.any() and not run.record["settings"].get("target_fpr", 0):
            return Undefined("the threshold was chosen with defects, for the best F1")
        good = val.scores[~val.is_defect]
        if not len(good):
            return NO_GOOD
        promised.append(promised_rate(int((good >= threshold).sum()), len(good)))
    return max(promised)


def _by_size(
    scores: NDArray[np.float64],
    is_defect: NDArray[np.bool_],
    threshold: NDArray[np.float64] | None,
    truths: Sequence[Truth],
) -> dict[str, Any]:
    """Return image-level metrics by the size of the defect."""
    sizes = [one.size for one in truths]
    sized = image_metrics(scores, is_defect, threshold=threshold, defect_types=sizes)
    return {
        "auroc_by_size": to_json(sized.auroc_by_type),
        "recall_by_size": to_json(sized.recall_by_type),
    }


def _images(
    samples: Sequence[Sample],
    truths: Sequence[Truth],
    scores: NDArray[np.float64],
    threshold: NDArray[np.float64] | None,
) -> dict[str, Any]:
    """List the score of each image, so that two runs can be compared image by image."""
    images: dict[str, Any] = {
        "ids": [s.id for s in samples],
        "types": [s.label for s in samples],
        "sizes": [
            one.size if s.is_defect else GOOD for s, one in zip(samples, truths, strict=True)
        ],
        "scores": scores,
    }
    if threshold is not None:
        images["flagged"] = flagged(scores, threshold).tolist()
    return images


def _per_image(
    thresholds: Sequence[float | None], parts: Sequence[ScoredPredictions]
) -> NDArray[np.float64] | None:
    known = [t for t in thresholds if t is not None]
    if len(known) < len(thresholds):
        return None
    return np.repeat(np.array(known), [len(part.samples) for part in parts])


def _speed(parts: Sequence[ScoredPredictions]) -> dict[str, Any]:
    measured = measured_speed([part.run for part in parts])
    if measured:
        return measured
    # The first image of each run pays for warming up.
    seconds = [p.seconds for part in parts for p in part.predictions[1:] if p.seconds is not None]
    if not seconds:
        return {}
    return {
        "ms_per_image_median": round(float(np.median(seconds)) * 1e3, 3),
        "ms_per_image_p95": round(float(np.percentile(seconds, 95)) * 1e3, 3),
        "images_per_second": round(len(seconds) / max(sum(seconds), 1e-9), 3),
    }


def _classes(
    samples: Sequence[Sample], predictions: Sequence[Prediction], classes: Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """Return the names of all classes, and the true and the predicted class of each image."""
    probabilities = [p.class_probabilities or {} for p in predictions]
    predicted = [max(one, key=one.__getitem__) for one in probabilities]
    names = [GOOD, *classes]
    offered = {name for one in probabilities for name in one}
    if offered <= set(names):
        return names, [s.label for s in samples], predicted
    # Good against defect: the true labels follow.
    names = [GOOD, *sorted(offered - {GOOD})]
    return names, [names[-1] if s.is_defect else GOOD for s in samples], predicted


def _has(parts: Sequence[ScoredPredictions], what: str) -> bool:
    first = (next(iter(read_predictions(p.run.predictions, p.part)), None) for p in parts)
    return all(p is not None and getattr(p, what) is not None for p in first)

"""From stored predictions to metrics: the same predictions always give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from toolkit.data.types import GOOD, Dataset, Sample
from toolkit.errors import RunError
from toolkit.metrics.bootstrap import image_intervals
from toolkit.metrics.classification import classification_intervals, classification_metrics
from toolkit.metrics.image import flagged, image_metrics
from toolkit.metrics.threshold import f1_threshold, false_alarm_threshold
from toolkit.metrics.values import MetricError, to_json
from toolkit.prediction import Prediction
from toolkit.runs.costs import costs
from toolkit.runs.localization_metrics import (
    Truth,
    anomaly_map_metrics,
    score_boxes,
    score_masks,
    truth_of,
)
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.run import Run
from toolkit.runs.scored_predictions import Judged, judged

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SCHEMA", "Judged", "evaluate", "judged", "threshold_of"]

SCHEMA = 1


def threshold_of(run: Run, dataset: Dataset) -> float | None:
    """Choose the image-level threshold on the run's validation part; None where it is empty.

    A method with a setting `target_fpr` above 0 gets the threshold that flags no more than this
    share of the good validation images, and looks at no defect; all others that of the best F1.
    """
    val = judged(run, dataset, "val")
    rate = run.record["settings"].get("target_fpr", 0)
    if rate and not val.is_defect.all():
        return false_alarm_threshold(val.scores[~val.is_defect], rate)
    return f1_threshold(val.scores, val.is_defect) if len(val.samples) else None


def evaluate(
    runs: Sequence[Run], dataset: Dataset, *, part: Literal["test", "val"] = "test"
) -> dict[str, Any]:
    """Score the test predictions of one run, or of the runs of several folds pooled.

    Each fold keeps the threshold that its own validation part chose.

    Args:
        runs: one run, or the folds of one entry.
        dataset: their data.
        part: `val` judges the validation parts, by which settings are chosen; figures at the
            threshold flatter there, since it was chosen on the same images.

    Returns:
        JSON values with sorted keys; every figure is a number or `{"value": null, "reason": …}`.

    Raises:
        RunError: predictions are missing, damaged, not finite, or not of these images.
    """
    try:
        return _evaluate(runs, dataset, part)
    except MetricError as error:
        raise RunError(f"{runs[0].path}: {error}; run the method again") from error


def _evaluate(
    runs: Sequence[Run], dataset: Dataset, part: Literal["test", "val"]
) -> dict[str, Any]:
    parts = [judged(run, dataset, part) for run in runs]
    samples = [s for part in parts for s in part.samples]
    light = [p for part in parts for p in part.light]
    thresholds = [threshold_of(run, dataset) for run in runs]
    scores = np.concatenate([part.scores for part in parts])
    is_defect = np.concatenate([part.is_defect for part in parts])
    threshold = _per_image(thresholds, parts)
    types = [s.label for s in samples]
    image = to_json(image_metrics(scores, is_defect, threshold=threshold, defect_types=types))
    intervals: dict[str, Any] = dict(
        image_intervals(scores, is_defect, threshold=threshold, defect_types=types)
    )
    truths = [truth_of(s) for s in samples]
    image.update(_by_size(scores, is_defect, threshold, truths))
    images = _images(samples, truths, scores, threshold)
    metrics: dict[str, Any] = {
        "schema": SCHEMA,
        "thresholds": thresholds,
        "image": image,
        "intervals": intervals,
        "images": images,
        "speed": {**_speed(parts), **costs(runs)},
    }
    if all(p.boxes is not None for p in light):
        boxes = score_boxes(samples, truths, light, dataset.classes)
        metrics["boxes"], metrics["detections"] = boxes.figures, boxes.units
        intervals.update(boxes.intervals)
    if all(p.class_probabilities is not None for p in light):
        names, true, said = _answers(samples, light, dataset.classes)
        index = {name: i for i, name in enumerate(names)}
        labels = [index[t] for t in true], [index[s] for s in said]
        metrics["classification"] = {
            "classes": names,
            **to_json(classification_metrics(*labels, class_names=names)),
        }
        spread = classification_intervals(*labels, class_names=names, strata=types)
        intervals.update({f"classification.{name}": one for name, one in spread.items()})
        images.update(true_classes=true, pred_classes=said)
    if _has(parts, "mask"):
        masks = score_masks(parts, truths)
        metrics["masks"] = masks.figures
        images.update(masks.units)
        intervals.update(masks.intervals)
    if _has(parts, "anomaly_map"):
        maps = anomaly_map_metrics(parts)
        metrics["pixel"], metrics["regions"] = maps.figures, maps.units
        intervals.update(maps.intervals)
    result: dict[str, Any] = to_json(metrics)
    return result


def _by_size(
    scores: NDArray[np.float64],
    is_defect: NDArray[np.bool_],
    threshold: NDArray[np.float64] | None,
    truths: Sequence[Truth],
) -> dict[str, Any]:
    """Score the images by the size of their defect."""
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
    """List what was said of each image, so that two runs can be compared image by image."""
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
    thresholds: Sequence[float | None], parts: Sequence[Judged]
) -> NDArray[np.float64] | None:
    known = [t for t in thresholds if t is not None]
    if len(known) < len(thresholds):
        return None
    return np.repeat(np.array(known), [len(part.samples) for part in parts])


def _speed(parts: Sequence[Judged]) -> dict[str, float]:
    # The first image of each run pays for loading the model.
    seconds = [p.seconds for part in parts for p in part.light[1:] if p.seconds is not None]
    if not seconds:
        return {}
    return {
        "ms_per_image_median": round(float(np.median(seconds)) * 1e3, 3),
        "ms_per_image_p95": round(float(np.percentile(seconds, 95)) * 1e3, 3),
        "images_per_second": round(len(seconds) / max(sum(seconds), 1e-9), 3),
    }


def _answers(
    samples: Sequence[Sample], light: Sequence[Prediction], classes: Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """Return the names of all classes, the true class of each image, and the one that was said."""
    said = [
        max(p.class_probabilities or {}, key=(p.class_probabilities or {}).__getitem__)
        for p in light
    ]
    names = [GOOD, *classes]
    offered = {name for p in light for name in p.class_probabilities or {}}
    if offered <= set(names):
        return names, [s.label for s in samples], said
    # Good against defect: the true labels follow.
    names = [GOOD, *sorted(offered - {GOOD})]
    return names, [names[-1] if s.is_defect else GOOD for s in samples], said


def _has(parts: Sequence[Judged], what: str) -> bool:
    first = (next(iter(read_predictions(p.run.predictions, p.part)), None) for p in parts)
    return all(p is not None and getattr(p, what) is not None for p in first)

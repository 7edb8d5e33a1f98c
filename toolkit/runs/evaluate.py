"""From stored predictions to metrics: the same predictions always give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from toolkit.data.images import read_truth
from toolkit.data.regions import regions_of
from toolkit.data.types import GOOD, Dataset, Sample
from toolkit.errors import RunError
from toolkit.metrics.bootstrap import image_intervals
from toolkit.metrics.boxes import PredictedBoxes, TrueBoxes, box_metrics
from toolkit.metrics.classification import classification_metrics
from toolkit.metrics.image import flagged, image_metrics
from toolkit.metrics.masks import mask_metrics
from toolkit.metrics.pixel import pixel_metrics
from toolkit.metrics.threshold import f1_threshold
from toolkit.metrics.values import MetricError, to_json
from toolkit.runs.cost import cost
from toolkit.runs.judged import Judged, judged
from toolkit.runs.prediction import Boxes, Prediction
from toolkit.runs.run import Run
from toolkit.runs.storage import read_predictions

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SCHEMA", "Judged", "evaluate", "judged", "threshold_of"]

SCHEMA = 1
P = TypeVar("P", bound=np.generic)


def threshold_of(run: Run, dataset: Dataset) -> float | None:
    """Choose the image-level threshold on the run's validation part; None where it is empty."""
    val = judged(run, dataset, "val")
    return f1_threshold(val.scores, val.is_defect) if len(val.samples) else None


def evaluate(runs: Sequence[Run], dataset: Dataset) -> dict[str, Any]:
    """Score the test predictions of one run, or of the runs of several folds pooled.

    Each fold keeps the threshold that its own validation part chose.

    Returns:
        JSON values with sorted keys; every figure is a number or `{"value": null, "reason": …}`.

    Raises:
        RunError: predictions are missing, damaged, not finite, or not of these images.
    """
    try:
        return _evaluate(runs, dataset)
    except MetricError as error:
        raise RunError(f"{runs[0].path}: {error}; run the method again") from error


def _evaluate(runs: Sequence[Run], dataset: Dataset) -> dict[str, Any]:
    parts = [judged(run, dataset, "test") for run in runs]
    samples = [s for part in parts for s in part.samples]
    light = [p for part in parts for p in part.light]
    thresholds = [threshold_of(run, dataset) for run in runs]
    scores = np.concatenate([part.scores for part in parts])
    is_defect = np.concatenate([part.is_defect for part in parts])
    threshold = _per_image(thresholds, parts)
    types = [s.label for s in samples]
    image = image_metrics(scores, is_defect, threshold=threshold, defect_types=types)
    intervals = image_intervals(scores, is_defect, threshold=threshold, defect_types=types)
    metrics: dict[str, Any] = {
        "schema": SCHEMA,
        "thresholds": thresholds,
        "image": image,
        "intervals": intervals,
        "images": _images(samples, scores, threshold),
        "speed": {**_speed(parts), **cost(runs)},
    }
    if all(p.boxes is not None for p in light):
        metrics["boxes"] = _boxes(samples, light, dataset.classes)
    if all(p.class_probabilities is not None for p in light):
        metrics["classification"] = _classification(samples, light, dataset.classes)
    if _has(parts, "mask"):
        metrics["masks"] = _masks(parts)
    if _has(parts, "score_map"):
        metrics["pixel"] = pixel_metrics(_Maps(parts))
    result: dict[str, Any] = to_json(metrics)
    return result


def _images(
    samples: Sequence[Sample],
    scores: NDArray[np.float64],
    threshold: NDArray[np.float64] | None,
) -> dict[str, Any]:
    """List what was said of each image, so that two runs can be compared image by image."""
    images: dict[str, Any] = {
        "ids": [s.id for s in samples],
        "types": [s.label for s in samples],
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


def _boxes(samples: Sequence[Sample], light: Sequence[Prediction], classes: Sequence[str]) -> Any:
    index = {name: i for i, name in enumerate(classes)}
    truth, predicted = [], []
    for sample, prediction in zip(samples, light, strict=True):
        boxes = [r.box_xyxy for r in regions_of(read_truth(sample))] if sample.is_defect else []
        labels = np.full(len(boxes), index.get(sample.label, 0), np.int64)
        truth.append(TrueBoxes(np.asarray(boxes, np.float64).reshape(-1, 4), labels))
        said = prediction.boxes if prediction.boxes is not None else Boxes.none()
        known = [i for i, name in enumerate(said.labels) if name in index]
        predicted.append(
            PredictedBoxes(
                said.xyxy[known].astype(np.float64),
                said.scores[known].astype(np.float64),
                np.array([index[said.labels[i]] for i in known], np.int64),
            )
        )
    return box_metrics(truth, predicted, class_names=classes)


def _classification(
    samples: Sequence[Sample], light: Sequence[Prediction], classes: Sequence[str]
) -> Any:
    said = [
        max(p.class_probabilities or {}, key=(p.class_probabilities or {}).__getitem__)
        for p in light
    ]
    names = [GOOD, *classes]
    offered = {name for p in light for name in p.class_probabilities or {}}
    if not offered <= set(names):  # good against defect: the true labels follow
        names = [GOOD, *sorted(offered - {GOOD})]
        true = [names[-1] if s.is_defect else GOOD for s in samples]
    else:
        true = [s.label for s in samples]
    index = {name: i for i, name in enumerate(names)}
    return {
        "classes": names,
        **to_json(
            classification_metrics(
                [index[t] for t in true], [index[s] for s in said], class_names=names
            )
        ),
    }


def _has(parts: Sequence[Judged], what: str) -> bool:
    first = (next(iter(read_predictions(p.run.predictions, p.part)), None) for p in parts)
    return all(p is not None and getattr(p, what) is not None for p in first)


def _masks(parts: Sequence[Judged]) -> Any:
    """Mean over defective images of the union mask's overlap with the union of true masks."""
    return mask_metrics(
        (_given(prediction.mask, part, sample), read_truth(sample))
        for part in parts
        for prediction, sample in part.pixels()
        if sample.is_defect
    )


def _given(pixels: NDArray[P] | None, part: Judged, sample: Sample) -> NDArray[P]:
    """Insist on pixels for every image, or a method could leave out those it is bad at."""
    if pixels is None:
        raise RunError(
            f"{part.run.path}: {part.run.method} gives masks or score maps for some images only "
            f"(not for {sample.id}); it has to give an empty one there"
        )
    return pixels


class _Maps:
    """Score maps at image size beside true masks; can be gone through more than once."""

    def __init__(self, parts: Sequence[Judged]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        import cv2

        for part in self._parts:
            for prediction, sample in part.pixels():
                truth = read_truth(sample)
                score_map = _given(prediction.score_map, part, sample)
                if score_map.ndim != 2 or not score_map.size or not np.isfinite(score_map).all():
                    raise RunError(
                        f"{part.run.path}: the score map of {sample.id} holds NaN or infinity, or "
                        "is no map; run the method again"
                    )
                size = (truth.shape[1], truth.shape[0])
                yield cv2.resize(score_map, size, interpolation=cv2.INTER_LINEAR), truth

"""Metrics of boxes, masks and anomaly maps against the true masks, by type and by size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from toolkit.data.images import image_size, read_regions, read_truth
from toolkit.data.types import Sample
from toolkit.errors import RunError
from toolkit.metrics.bootstrap import bootstrap_mean, interval_of, resample_counts
from toolkit.metrics.box_bootstrap import map50_resamples, match_boxes
from toolkit.metrics.boxes import NO_BOXES, PredictedBoxes, TrueBoxes, box_metrics
from toolkit.metrics.masks import MaskValues, mask_values, mean_of_masks
from toolkit.metrics.pixel import RegionMetrics, pixel_metrics
from toolkit.metrics.sizes import SIZES, size_names
from toolkit.metrics.values import Undefined, Value, to_json
from toolkit.prediction import Boxes, Prediction
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.scored_predictions import ScoredPredictions

if TYPE_CHECKING:
    from numpy.typing import NDArray

P = TypeVar("P", bound=np.generic)
NO_MASK = "no mask"


@dataclass(frozen=True)
class Truth:
    """The defects of one image, without their pixels.

    Attributes:
        area: of the image, in pixels.
        size: of its whole defect, see `toolkit.metrics.sizes`; `no mask` where it has none.
        boxes_xyxy: float64[k, 4], one per region.
        labels: defect type of each region.
    """

    area: int
    size: str
    boxes_xyxy: NDArray[np.float64]
    labels: tuple[str, ...] = ()


def measure_truth(sample: Sample) -> Truth:
    """Measure the masks of a sample.

    Raises:
        DataError: the image or a mask cannot be read.
    """
    width, height, _ = image_size(sample.image)
    found = read_regions(sample) if sample.is_defect else []
    if not found:
        return Truth(width * height, NO_MASK, np.zeros((0, 4)))
    boxes = np.asarray([r.box_xyxy for _, r in found], np.float64).reshape(-1, 4)
    share = min(1.0, sum(r.area for _, r in found) / (width * height))  # boxes may overlap
    return Truth(width * height, size_names([share])[0], boxes, tuple(name for name, _ in found))


@dataclass(frozen=True)
class LocalizationMetrics:
    """Metrics of boxes, masks or anomaly maps, and the units that they average.

    Attributes:
        metrics: for `metrics.json`.
        units: lists, one entry per image, region or predicted box, that runs can be compared by.
        intervals: 95 % bootstrap intervals by name.
    """

    metrics: dict[str, Any]
    units: dict[str, Any]
    intervals: dict[str, Any]


def detection_metrics(
    samples: Sequence[Sample],
    truths: Sequence[Truth],
    predictions: Sequence[Prediction],
    classes: Sequence[str],
) -> LocalizationMetrics:
    """Score the boxes of all images; boxes of unknown classes are not counted."""
    index = {name: i for i, name in enumerate(classes)}
    truth, predicted = [], []
    for there, prediction in zip(truths, predictions, strict=True):
        labels = np.array([index.get(name, 0) for name in there.labels], np.int64)
        truth.append(TrueBoxes(there.boxes_xyxy, labels))
        boxes = prediction.boxes if prediction.boxes is not None else Boxes.none()
        known = [i for i, name in enumerate(boxes.labels) if name in index]
        predicted.append(
            PredictedBoxes(
                boxes.xyxy[known].astype(np.float64),
                boxes.scores[known].astype(np.float64),
                np.array([index[boxes.labels[i]] for i in known], np.int64),
            )
        )
    areas = [one.area for one in truths]
    found = match_boxes(truth, predicted, n_classes=len(classes))
    counts = resample_counts([s.label for s in samples])
    drawn = map50_resamples(found, counts)
    return LocalizationMetrics(
        metrics=to_json(box_metrics(truth, predicted, class_names=classes, image_areas=areas)),
        units={f.name: getattr(found, f.name).tolist() for f in fields(found)},
        intervals={"map50": NO_BOXES if drawn is None else interval_of(drawn, counts)},
    )


def segmentation_metrics(
    parts: Sequence[ScoredPredictions], truths: Sequence[Truth]
) -> LocalizationMetrics:
    """Score union masks on the defective images; good images have no mask to overlap."""
    samples = [s for part in parts for s in part.samples]
    found: dict[str, MaskValues] = {}
    for part in parts:
        for prediction, sample in part.with_pixels():
            if sample.has_mask:
                mask = _required(prediction.mask, part, sample)
                found[sample.id] = mask_values(mask, read_truth(sample))
    sizes = {s.id: t.size for s, t in zip(samples, truths, strict=True)}
    defects = [s for s in samples if s.has_mask]

    def mean(chosen: Sequence[Sample]) -> Any:
        return mean_of_masks([found[s.id] for s in chosen])

    metrics = {
        **to_json(mean(defects)),
        "by_type": {t: mean([s for s in defects if s.label == t]) for t in _types(defects)},
        "by_size": {z: mean([s for s in defects if sizes[s.id] == z]) for z in SIZES},
    }
    units: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for name, field in (("mask_iou", "iou"), ("dice", "dice"), ("boundary_iou", "boundary_iou")):
        values = {key: _number(getattr(one, field)) for key, one in found.items()}
        units[name] = [values.get(s.id) for s in samples]
        known = [(values[s.id], s.label) for s in defects if values[s.id] is not None]
        intervals[name] = (
            bootstrap_mean([v for v, _ in known], [t for _, t in known])  # type: ignore[arg-type]
            if known
            else Undefined("no masks")
        )
    return LocalizationMetrics(metrics=metrics, units=units, intervals=intervals)


def anomaly_map_metrics(parts: Sequence[ScoredPredictions]) -> LocalizationMetrics:
    """Score anomaly maps over all pixels of all images; AUPRO has intervals over regions."""
    scored = pixel_metrics(_Maps(parts))
    regions = scored.regions
    # In the order in which the maps are stored, which the metrics read them in.
    samples = [sample for part in parts for sample in _stored_order(part)]
    types = [samples[i].label for i in regions.image]
    sizes = size_names(regions.share)
    metrics = to_json(scored)
    del metrics["regions"]
    metrics["by_type"] = {
        t: _some(regions, [one == t for one in types])
        for t in _types([s for s in samples if s.is_defect])
    }
    metrics["by_size"] = {z: _some(regions, [one == z for one in sizes]) for z in SIZES}
    numbers = _numbered([samples[i].id for i in regions.image])
    units: dict[str, Any] = {"ids": numbers, "types": types, "sizes": sizes}
    units["pixels"] = regions.n_pixels
    intervals: dict[str, Any] = {}
    for limit, values in regions.aupro.items():
        name = f"aupro_{limit}"
        if len(values):
            units[name] = values
        intervals[name] = (
            bootstrap_mean(values, types) if len(values) else Undefined("no regions or no good")
        )
    return LocalizationMetrics(metrics=metrics, units=units, intervals=intervals)


def _some(regions: RegionMetrics, chosen: Sequence[bool]) -> dict[str, Any]:
    """Return the metrics of some regions against all good pixels."""
    mask = np.asarray(chosen, np.bool_)
    if not mask.any() or not regions.auroc.size:
        none: Value = Undefined("no regions of this kind" if not mask.any() else "no good pixels")
        aupro: dict[float, Value] = dict.fromkeys(regions.aupro, none)
        return {"n_regions": int(mask.sum()), "n_pixels": 0, "auroc": none, "aupro": aupro}
    n_pixels = regions.n_pixels[mask]
    return {
        "n_regions": int(mask.sum()),
        "n_pixels": int(n_pixels.sum()),
        "auroc": float(np.sum(regions.auroc[mask] * n_pixels) / n_pixels.sum()),
        "aupro": {limit: math.fsum(v[mask]) / mask.sum() for limit, v in regions.aupro.items()},
    }


def _numbered(ids: Sequence[str]) -> list[str]:
    """Name regions by their image and their place in it."""
    seen: dict[str, int] = {}
    names = []
    for name in ids:
        seen[name] = seen.get(name, 0) + 1
        names.append(f"{name}#{seen[name]}")
    return names


def _stored_order(part: ScoredPredictions) -> list[Sample]:
    by_id = {s.id: s for s in part.samples}
    stored = read_predictions(part.run.predictions, part.part, pixels=False)
    return [by_id[p.sample_id] for p in stored]


def _types(samples: Sequence[Sample]) -> list[str]:
    return sorted({s.label for s in samples})


def _number(value: Value) -> float | None:
    return None if isinstance(value, Undefined) else value


def _required(pixels: NDArray[P] | None, part: ScoredPredictions, sample: Sample) -> NDArray[P]:
    """Require pixels for every image, or a method could leave out those it is bad at."""
    if pixels is None:
        raise RunError(
            f"{part.run.path}: {part.run.method} gives masks or anomaly maps for some images only "
            f"(not for {sample.id}); it has to give an empty one there"
        )
    return pixels


class _Maps:
    """Iterable of anomaly maps at image size and true masks; can be read more than once."""

    def __init__(self, parts: Sequence[ScoredPredictions]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        import cv2

        for part in self._parts:
            for prediction, sample in part.with_pixels():
                truth = read_truth(sample)
                anomaly_map = _required(prediction.anomaly_map, part, sample)
                if (
                    anomaly_map.ndim != 2
                    or not anomaly_map.size
                    or not np.isfinite(anomaly_map).all()
                ):
                    raise RunError(
                        f"{part.run.path}: the anomaly map of {sample.id} holds NaN or infinity, "
                        "or is no map; run the method again"
                    )
                size = (truth.shape[1], truth.shape[0])
                yield cv2.resize(anomaly_map, size, interpolation=cv2.INTER_LINEAR), truth

"""Where the defects are: boxes, masks and anomaly maps against the truth, by type and by size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from toolkit.data.images import image_size, read_truth
from toolkit.data.regions import regions_of
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
from toolkit.runs.scored_predictions import Judged

if TYPE_CHECKING:
    from numpy.typing import NDArray

P = TypeVar("P", bound=np.generic)
NO_MASK = "no mask"


@dataclass(frozen=True)
class Truth:
    """What is on one image, without its pixels.

    Attributes:
        area: of the image, in pixels.
        size: of its whole defect, see `toolkit.metrics.sizes`; `no mask` where it has none.
        boxes_xyxy: float64[k, 4], one per region.
    """

    area: int
    size: str
    boxes_xyxy: NDArray[np.float64]


def truth_of(sample: Sample) -> Truth:
    """Measure a sample's masks.

    Raises:
        DataError: the image or a mask cannot be read.
    """
    if not sample.is_defect or not sample.masks:
        width, height, _ = image_size(sample.image)
        return Truth(width * height, NO_MASK, np.zeros((0, 4)))
    mask = read_truth(sample)
    boxes = np.asarray([r.box_xyxy for r in regions_of(mask)], np.float64).reshape(-1, 4)
    share = np.count_nonzero(mask) / mask.size
    return Truth(mask.size, size_names([share])[0] if share else NO_MASK, boxes)


@dataclass(frozen=True)
class Localised:
    """Figures of boxes, masks or anomaly maps, and what they rest on.

    Attributes:
        figures: for `metrics.json`.
        units: lists, one entry per image, region or predicted box, that runs can be compared by.
        intervals: 95 % bootstrap intervals by name.
    """

    figures: dict[str, Any]
    units: dict[str, Any]
    intervals: dict[str, Any]


def score_boxes(
    samples: Sequence[Sample],
    truths: Sequence[Truth],
    light: Sequence[Prediction],
    classes: Sequence[str],
) -> Localised:
    """Score the boxes of all images; boxes of unknown classes are not counted."""
    index = {name: i for i, name in enumerate(classes)}
    truth, predicted = [], []
    for sample, there, prediction in zip(samples, truths, light, strict=True):
        labels = np.full(len(there.boxes_xyxy), index.get(sample.label, 0), np.int64)
        truth.append(TrueBoxes(there.boxes_xyxy, labels))
        said = prediction.boxes if prediction.boxes is not None else Boxes.none()
        known = [i for i, name in enumerate(said.labels) if name in index]
        predicted.append(
            PredictedBoxes(
                said.xyxy[known].astype(np.float64),
                said.scores[known].astype(np.float64),
                np.array([index[said.labels[i]] for i in known], np.int64),
            )
        )
    areas = [one.area for one in truths]
    found = match_boxes(truth, predicted, n_classes=len(classes))
    counts = resample_counts([s.label for s in samples])
    drawn = map50_resamples(found, counts)
    return Localised(
        figures=to_json(box_metrics(truth, predicted, class_names=classes, image_areas=areas)),
        units={f.name: getattr(found, f.name).tolist() for f in fields(found)},
        intervals={"map50": NO_BOXES if drawn is None else interval_of(drawn, counts)},
    )


def score_masks(parts: Sequence[Judged], truths: Sequence[Truth]) -> Localised:
    """Score union masks on the defective images; on good ones a mask has no overlap to measure."""
    samples = [s for part in parts for s in part.samples]
    found: dict[str, MaskValues] = {}
    for part in parts:
        for prediction, sample in part.pixels():
            if sample.is_defect:
                said = _given(prediction.mask, part, sample)
                found[sample.id] = mask_values(said, read_truth(sample))
    sizes = {s.id: t.size for s, t in zip(samples, truths, strict=True)}
    defects = [s for s in samples if s.is_defect]

    def mean(chosen: Sequence[Sample]) -> Any:
        return mean_of_masks([found[s.id] for s in chosen])

    figures = {
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
    return Localised(figures=figures, units=units, intervals=intervals)


def anomaly_map_metrics(parts: Sequence[Judged]) -> Localised:
    """Anomaly maps over all pixels of all images; intervals of AUPRO are over regions."""
    metrics = pixel_metrics(_Maps(parts))
    regions = metrics.regions
    # In the order in which the maps are stored, which the metrics read them in.
    samples = [sample for part in parts for sample in _stored_order(part)]
    types = [samples[i].label for i in regions.image]
    sizes = size_names(regions.share)
    figures = to_json(metrics)
    del figures["regions"]
    figures["by_type"] = {
        t: _some(regions, [one == t for one in types])
        for t in _types([s for s in samples if s.is_defect])
    }
    figures["by_size"] = {z: _some(regions, [one == z for one in sizes]) for z in SIZES}
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
    return Localised(figures=figures, units=units, intervals=intervals)


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


def _stored_order(part: Judged) -> list[Sample]:
    from toolkit.runs.prediction_io import read_predictions

    by_id = {s.id: s for s in part.samples}
    stored = read_predictions(part.run.predictions, part.part, pixels=False)
    return [by_id[p.sample_id] for p in stored]


def _types(samples: Sequence[Sample]) -> list[str]:
    return sorted({s.label for s in samples})


def _number(value: Value) -> float | None:
    return None if isinstance(value, Undefined) else value


def _given(pixels: NDArray[P] | None, part: Judged, sample: Sample) -> NDArray[P]:
    """Insist on pixels for every image, or a method could leave out those it is bad at."""
    if pixels is None:
        raise RunError(
            f"{part.run.path}: {part.run.method} gives masks or anomaly maps for some images only "
            f"(not for {sample.id}); it has to give an empty one there"
        )
    return pixels


class _Maps:
    """Anomaly maps at image size beside true masks; can be gone through more than once."""

    def __init__(self, parts: Sequence[Judged]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        import cv2

        for part in self._parts:
            for prediction, sample in part.pixels():
                truth = read_truth(sample)
                anomaly_map = _given(prediction.anomaly_map, part, sample)
                if (
                    anomaly_map.ndim != 2
                    or not anomaly_map.size
                    or not np.isfinite(anomaly_map).all()
                ):
                    raise RunError(
                        f"{part.run.path}: the anomaly map of {sample.id} holds NaN or infinity, or "
                        "is no map; run the method again"
                    )
                size = (truth.shape[1], truth.shape[0])
                yield cv2.resize(anomaly_map, size, interpolation=cv2.INTER_LINEAR), truth

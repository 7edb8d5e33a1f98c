"""The gallery's data: each test image once, and what each method said of it as layers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from toolkit.data.images import image_size, read_rgb, read_truth
from toolkit.errors import RunError, ToolkitError
from toolkit.inference.plot import validation_heat_range
from toolkit.report.curves import ProCurve
from toolkit.report.layers import mask_path, shown_boxes
from toolkit.report.pictures import heat_picture, thumbnail
from toolkit.runs.prediction_io import read_predictions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.types import Sample
    from toolkit.prediction import Prediction
    from toolkit.progress import Progress
    from toolkit.report.collect import Shown


@dataclass(frozen=True)
class Answers:
    """What one method said of every test image, ready to be drawn.

    Attributes:
        by_image: by sample id: score, threshold, decision, class, boxes, mask outline, heat map.
        heat_ranges: anomaly map values of no and full colour, per fold; empty without anomaly maps.
        pro: points of the PRO curve; None without anomaly maps, or without regions.
    """

    by_image: Mapping[str, dict[str, Any]]
    heat_ranges: tuple[tuple[float, float], ...]
    pro: list[tuple[float, float]] | None


def image_record(sample: Sample, edge: int) -> dict[str, Any]:
    """Return a test image as WebP, its size in pixels and the outline of its true mask."""
    width, height, _ = image_size(sample.image)
    return {
        "width": width,
        "height": height,
        "webp": _text(thumbnail(read_rgb(sample.image), edge)),
        "truth": mask_path(read_truth(sample)) if sample.is_defect else "",
    }


def method_answers(shown: Shown, bar: Progress) -> Answers:
    """Read all that one method predicted, masks and anomaly maps included.

    Args:
        shown: the method.
        bar: goes on by one per image.

    Raises:
        RunError: a prediction is damaged, or a anomaly map holds NaN or infinite values.
    """
    given = [
        p.anomaly_map
        for part in shown.parts
        for p in read_predictions(part.run.predictions, part.part)
        if p.anomaly_map is not None
    ]
    for anomaly_map in given:
        if anomaly_map.ndim != 2 or not anomaly_map.size or not np.isfinite(anomaly_map).all():
            raise RunError(
                f"{shown.parts[0].run.path}: a anomaly map is no array of finite numbers; run again"
            )
    curve = ProCurve(given) if len(given) == len(shown.samples) else None
    del given
    by_image: dict[str, dict[str, Any]] = {}
    ranges = []
    for part, threshold in zip(shown.parts, shown.thresholds, strict=True):
        heat_range = validation_heat_range(part.run)
        for prediction, sample in part.with_pixels():
            heat = prediction.anomaly_map
            if heat is not None and heat_range is None:  # no validation images to go by
                heat_range = float(heat.min()), float(heat.max())
            by_image[sample.id] = _answer(prediction, threshold, heat_range)
            if curve is not None and heat is not None:
                truth = read_truth(sample)
                curve.add(_at_size(heat, truth), truth)
            bar.advance()
        if heat_range is not None:
            ranges.append(heat_range)
    return Answers(
        by_image=by_image,
        heat_ranges=tuple(ranges),
        pro=curve.points() if curve is not None else None,
    )


def try_answers(shown: Shown, bar: Progress) -> Answers | str:
    """Like `method_answers`, but return the line that names what is wrong with a run."""
    try:
        return method_answers(shown, bar)
    except ToolkitError as error:
        return str(error)


def _at_size(anomaly_map: NDArray[np.float32], truth: NDArray[np.bool_]) -> NDArray[np.float32]:
    size = (truth.shape[1], truth.shape[0])
    resized: NDArray[np.float32] = cv2.resize(anomaly_map, size, interpolation=cv2.INTER_LINEAR)
    return resized


def _answer(
    prediction: Prediction, threshold: float | None, heat_range: tuple[float, float] | None
) -> dict[str, Any]:
    answer: dict[str, Any] = {"score": prediction.score, "threshold": threshold}
    if threshold is not None:
        answer["flagged"] = prediction.score >= threshold
    if prediction.class_probabilities:
        said = prediction.class_probabilities
        best = max(said, key=said.__getitem__)
        answer["said"] = [best, round(said[best], 4)]
    if prediction.boxes is not None:
        answer["boxes"] = shown_boxes(prediction.boxes, threshold)
    if prediction.mask is not None:
        answer["mask"] = mask_path(prediction.mask)
    if prediction.anomaly_map is not None and heat_range is not None:
        answer["heat"] = _text(heat_picture(prediction.anomaly_map, heat_range))
        answer["heat_range"] = [float(f"{v:.4g}") for v in heat_range]
    return answer


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

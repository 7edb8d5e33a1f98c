"""Boxes: COCO average precision and recall, by pycocotools or, faster, by faster-coco-eval.

Source: the COCO detection protocol (Lin et al., ECCV 2014) as `pycocotools.cocoeval.COCOeval`
implements it: 101-point interpolated precision, IoU 0.50 to 0.95, at most 100 boxes per image.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import MissingExtraError
from toolkit.metrics.sizes import SIZE_EDGES, SIZES
from toolkit.metrics.values import MetricError, Undefined, Value

Engine = Literal["auto", "pycocotools", "faster-coco-eval"]
ENGINE_PACKAGE = "faster_coco_eval"
NO_BOXES = Undefined("no true boxes")
NO_SUCH_BOXES = Undefined("no true boxes of this size")


@dataclass(frozen=True)
class TrueBoxes:
    """The true boxes of one image.

    Attributes:
        boxes_xyxy: float[k, 4], half-open pixel intervals x0, y0, x1, y1; k may be 0.
        labels: int[k], index into the class names.
    """

    boxes_xyxy: NDArray[Any]
    labels: NDArray[Any]


@dataclass(frozen=True)
class PredictedBoxes:
    """The predicted boxes of one image.

    Attributes:
        boxes_xyxy: float[k, 4], half-open pixel intervals x0, y0, x1, y1; k may be 0.
        scores: float[k], raw confidences; only their order counts.
        labels: int[k], index into the class names.
    """

    boxes_xyxy: NDArray[Any]
    scores: NDArray[Any]
    labels: NDArray[Any]


@dataclass(frozen=True)
class BoxMetrics:
    """COCO metrics of one method on one set of images.

    Attributes:
        n_images: number of images, those without boxes included.
        n_true: number of true boxes.
        n_predicted: number of predicted boxes.
        map50: AP at IoU 0.50, mean over classes that have true boxes.
        map50_95: mean AP at IoU 0.50, 0.55 … 0.95, mean over the same classes.
        ar100: mean recall at those IoUs with at most 100 boxes per image.
        ap50_by_class: AP at IoU 0.50 of each class.
        ap50_95_by_class, ar100_by_class: the other two of each class.
        class_agnostic_map50, class_agnostic_map50_95, class_agnostic_ar100: the same with all
            classes merged into one.
        class_agnostic_by_size: `map50`, `map50_95` and `ar100` of true boxes of each size, with all
            classes merged; predicted boxes of other sizes that match none are not counted.
            Empty where the areas of the images were not given.
    """

    n_images: int
    n_true: int
    n_predicted: int
    map50: Value
    map50_95: Value
    ar100: Value
    ap50_by_class: Mapping[str, Value]
    class_agnostic_map50: Value
    class_agnostic_map50_95: Value
    class_agnostic_ar100: Value
    ap50_95_by_class: Mapping[str, Value]
    ar100_by_class: Mapping[str, Value]
    class_agnostic_by_size: Mapping[str, Mapping[str, Value]]


def box_metrics(
    truth: Sequence[TrueBoxes],
    predicted: Sequence[PredictedBoxes],
    *,
    class_names: Sequence[str],
    image_areas: Sequence[float] | None = None,
    engine: Engine = "auto",
) -> BoxMetrics:
    """Score predicted boxes against true ones.

    Args:
        truth: one entry per image; images without defects have no boxes but do count, since every
            box predicted on them is a false alarm.
        predicted: one entry per image, in the same order.
        class_names: name of each label.
        image_areas: pixels of each image, for `class_agnostic_by_size`.
        engine: the implementation; `auto` is faster-coco-eval (extra `coco`) where it is installed.
            Both give the same figures.

    Raises:
        MissingExtraError: faster-coco-eval was requested and is not installed.
        MetricError: the lists differ in length, an array has the wrong shape, a label has no name,
            or a number is NaN or infinite.
    """
    if len(truth) != len(predicted):
        raise MetricError(
            f"{len(predicted)} predictions for {len(truth)} images: give one for each"
        )
    if image_areas is not None and len(image_areas) != len(truth):
        raise MetricError(f"{len(image_areas)} areas for {len(truth)} images: give one for each")
    for index, (true, guess) in enumerate(zip(truth, predicted, strict=True)):
        _check(true.boxes_xyxy, true.labels, None, n_classes=len(class_names), image=index)
        _check(
            guess.boxes_xyxy, guess.labels, guess.scores, n_classes=len(class_names), image=index
        )
    by_class = _evaluate(truth, predicted, n_classes=len(class_names), engine=engine)
    agnostic = _evaluate(
        [TrueBoxes(it.boxes_xyxy, np.zeros_like(it.labels)) for it in truth],
        [PredictedBoxes(it.boxes_xyxy, it.scores, np.zeros_like(it.labels)) for it in predicted],
        n_classes=1,
        image_areas=image_areas,
        engine=engine,
    )
    return BoxMetrics(
        n_images=len(truth),
        n_true=sum(len(it.labels) for it in truth),
        n_predicted=sum(len(it.labels) for it in predicted),
        map50=_mean(by_class.precision[0]),
        map50_95=_mean(by_class.precision),
        ar100=_mean(by_class.recall),
        ap50_by_class={
            name: _mean(by_class.precision[0, :, k]) for k, name in enumerate(class_names)
        },
        class_agnostic_map50=_mean(agnostic.precision[0]),
        class_agnostic_map50_95=_mean(agnostic.precision),
        class_agnostic_ar100=_mean(agnostic.recall),
        ap50_95_by_class={
            name: _mean(by_class.precision[:, :, k]) for k, name in enumerate(class_names)
        },
        ar100_by_class={name: _mean(by_class.recall[:, k]) for k, name in enumerate(class_names)},
        class_agnostic_by_size={
            name: {
                "map50": _mean(agnostic.precision_by_size[0, :, :, k], reason=NO_SUCH_BOXES),
                "map50_95": _mean(agnostic.precision_by_size[..., k], reason=NO_SUCH_BOXES),
                "ar100": _mean(agnostic.recall_by_size[..., k], reason=NO_SUCH_BOXES),
            }
            for k, name in enumerate(SIZES if image_areas is not None else ())
        },
    )


@dataclass(frozen=True)
class _Evaluated:
    """Precision float[10 IoUs, 101 recalls, K] and recall float[10 IoUs, K]; -1 for no truth.

    By size the same with one axis more, of the sizes.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    precision_by_size: NDArray[np.float64]
    recall_by_size: NDArray[np.float64]


def _evaluate(
    truth: Sequence[TrueBoxes],
    predicted: Sequence[PredictedBoxes],
    *,
    n_classes: int,
    engine: Engine,
    image_areas: Sequence[float] | None = None,
) -> _Evaluated:
    areas = [1.0] * len(truth) if image_areas is None else image_areas
    if not any(len(it.labels) for it in truth):
        precision = np.full((10, 101, n_classes, 1 + len(SIZES)), -1.0)
        recall = np.full((10, n_classes, 1 + len(SIZES)), -1.0)
        return _Evaluated(precision[..., 0], recall[..., 0], precision[..., 1:], recall[..., 1:])
    coco_class, evaluation_class = _engine(engine)

    def indexed(items: Sequence[TrueBoxes | PredictedBoxes]) -> Any:
        # Not COCO.loadRes, which fails on a method that predicts nothing at all.
        coco = coco_class()
        coco.dataset = {
            "images": [{"id": image} for image in range(1, len(items) + 1)],
            "categories": [{"id": label} for label in range(n_classes)],
            "annotations": _annotations(items, areas),
        }
        coco.createIndex()
        return coco

    # pycocotools prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluation_class(indexed(truth), indexed(predicted), "bbox")
        if image_areas is not None:
            # Areas are shares of the image here, not pixels. A share on an edge counts upwards.
            edges = [0.0, *SIZE_EDGES, 1e10]
            ranges = [[low, np.nextafter(high, 0)] for low, high in itertools.pairwise(edges)]
            evaluation.params.areaRng = [[0.0, 1e10], *ranges]
        evaluation.evaluate()
        evaluation.accumulate()
    # Last two axes: all areas (0), at most 100 boxes per image (-1).
    return _Evaluated(
        precision=evaluation.eval["precision"][:, :, :, 0, -1],
        recall=evaluation.eval["recall"][:, :, 0, -1],
        precision_by_size=evaluation.eval["precision"][:, :, :, 1:, -1],
        recall_by_size=evaluation.eval["recall"][:, :, 1:, -1],
    )


def _engine(name: Engine) -> tuple[Any, Any]:
    """Return the classes that hold and that evaluate boxes; both engines have one interface."""
    installed = importlib.util.find_spec(ENGINE_PACKAGE) is not None
    if name == "pycocotools" or (name == "auto" and not installed):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    if not installed:
        raise MissingExtraError("faster-coco-eval", extra="coco", purpose="score boxes faster")
    import faster_coco_eval

    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster


def _annotations(
    items: Sequence[TrueBoxes | PredictedBoxes], areas: Sequence[float]
) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image, (item, area) in enumerate(zip(items, areas, strict=True), start=1):
        boxes = np.asarray(item.boxes_xyxy, dtype=np.float64).reshape(-1, 4)
        sizes = boxes[:, 2:] - boxes[:, :2]
        scores = item.scores if isinstance(item, PredictedBoxes) else np.zeros(len(boxes))
        for box, (w, h), score, label in zip(boxes, sizes, scores, item.labels, strict=True):
            annotations.append(
                {
                    # Ids from 1: COCOeval reads a match with id 0 as no match.
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [float(box[0]), float(box[1]), float(w), float(h)],
                    "area": float(w * h) / area,
                    "iscrowd": 0,
                    "score": float(score),
                }
            )
    return annotations


def _mean(entries: NDArray[np.float64], *, reason: Undefined = NO_BOXES) -> Value:
    """Return the mean of the entries that are not -1, COCOeval's mark of a class without truth."""
    known = entries[entries > -1]
    return float(np.mean(known)) if known.size else reason


def _check(
    boxes: NDArray[Any],
    labels: NDArray[Any],
    scores: NDArray[Any] | None,
    *,
    n_classes: int,
    image: int,
) -> None:
    n = len(labels)
    if np.shape(boxes) != (n, 4) and not (n == 0 and np.size(boxes) == 0):
        raise MetricError(f"image {image}: boxes of shape {np.shape(boxes)} for {n} labels")
    if not np.isfinite(boxes).all():
        raise MetricError(f"image {image}: a box holds NaN or infinity; drop it before scoring")
    if n and (np.min(labels) < 0 or np.max(labels) >= n_classes):
        raise MetricError(f"image {image}: a label lies outside the {n_classes} class names")
    if scores is not None and (np.shape(scores) != (n,) or not np.isfinite(scores).all()):
        raise MetricError(f"image {image}: give one finite score for each of the {n} boxes")

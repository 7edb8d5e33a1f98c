"""Retention: mAP of the classes that the base model knew, before and after fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.config import read_yaml
from toolkit.data.images import is_image_file, read_rgb
from toolkit.errors import ConfigError
from toolkit.methods.yolo.predictor import YoloPredictor
from toolkit.methods.yolo.text_embeddings import NOT_CLIP
from toolkit.metrics.boxes import BoxMetrics, PredictedBoxes, TrueBoxes, box_metrics
from toolkit.metrics.values import to_json


@dataclass(frozen=True)
class RetentionData:
    """Labelled images of classes that the base model knew.

    Attributes:
        names: of the classes, in the order of their indices.
        images: files.
        labels: file of each image, rows `class cx cy w h` or `class x y x y …`; may be missing.
    """

    names: tuple[str, ...]
    images: tuple[Path, ...]
    labels: tuple[Path, ...]


def read_retention_data(data_yaml: Path) -> RetentionData:
    """Read the validation part of a data set in YOLO's layout.

    Raises:
        ConfigError: it is no such data set, has no images, or has a malformed label file.
    """
    content = read_yaml(data_yaml)
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    where = f"retention_data={data_yaml}"
    if not isinstance(names, dict) or "val" not in content:
        raise ConfigError(f"{where}: needs 'val' and 'names', as YOLO data files do")
    if set(names) != set(range(len(names))):
        raise ConfigError(f"{where}: number the names from 0 on, without a gap")
    folder = data_yaml.parent / content.get("path", "") / str(content["val"])
    images = tuple(sorted(f for f in folder.rglob("*") if is_image_file(f)))
    if not images:
        raise ConfigError(f"{where}: no images in {folder}")
    labels = tuple(_label_path(image) for image in images)
    for label in labels:
        _read_rows(label, n_classes=len(names))
    ordered = tuple(str(names[index]) for index in sorted(names))
    return RetentionData(names=ordered, images=images, labels=labels)


def why_not_measured(*, source: str, retention_data: str) -> str | None:
    """Return why retention cannot be measured; None where it can.

    Args:
        source: of the run's class embeddings.
        retention_data: setting of that name.
    """
    if NOT_CLIP in source or "CLIP" not in source:
        return f"no base model knew classes by these embeddings ({source})"
    if not retention_data:
        return "no images of the base model's classes (retention_data)"
    return None


def measure_retention(
    before: YoloPredictor, after: YoloPredictor, data: RetentionData
) -> dict[str, Any]:
    """Compare two networks on the base model's classes.

    Args:
        before: the base model, with these classes as its vocabulary.
        after: the fine-tuned one, with the same.
        data: images and boxes.

    Returns:
        mAP50 and mAP50-95 of both, and the differences, after minus before.

    Raises:
        DataError: an image cannot be read.
    """
    figures: dict[str, Any] = {"images": len(data.images), "classes": len(data.names)}
    metrics = {"before": _metrics(before, data), "after": _metrics(after, data)}
    for figure in ("map50", "map50_95"):
        values = {name: to_json(getattr(found, figure)) for name, found in metrics.items()}
        figures |= {f"{figure}_{name}": value for name, value in values.items()}
        if all(isinstance(value, float) for value in values.values()):
            figures[f"{figure}_change"] = values["after"] - values["before"]
    return figures


def _metrics(predictor: YoloPredictor, data: RetentionData) -> BoxMetrics:
    index = {name: i for i, name in enumerate(data.names)}
    truth, predicted = [], []
    for path, label in zip(data.images, data.labels, strict=True):
        image = read_rgb(path)
        rows = _read_rows(label, n_classes=len(data.names))
        truth.append(_true_boxes(rows, size_wh=(image.shape[1], image.shape[0])))
        found = predictor.detect(image)
        labels = np.array([index[name] for name in found.labels], np.int64)
        predicted.append(PredictedBoxes(found.xyxy.astype(np.float64), found.scores, labels))
    return box_metrics(truth, predicted, class_names=data.names)


def _label_path(image: Path) -> Path:
    """Replace the last folder `images` by `labels`, as Ultralytics does."""
    parts = list(image.parts)
    places = [i for i, part in enumerate(parts) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_rows(label: Path, *, n_classes: int) -> list[list[float]]:
    """Read a label file; a missing one has no boxes.

    Raises:
        ConfigError: a row is neither a box nor an outline, or of no class.
    """
    if not label.is_file():
        return []
    rows = []
    for number, line in enumerate(label.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = [float(v) for v in line.split()]
        except ValueError:
            values = [math.nan]
        if not values:
            continue
        boxed = len(values) == 5 or (len(values) >= 7 and len(values) % 2 == 1)
        if not boxed or not all(map(math.isfinite, values)) or values[0] not in range(n_classes):
            raise ConfigError(
                f"{label}: line {number} is no 'class cx cy w h' or 'class x y x y …' of a class "
                f"from 0 to {n_classes - 1}; correct it"
            )
        rows.append(values)
    return rows


def _true_boxes(rows: Sequence[Sequence[float]], *, size_wh: tuple[int, int]) -> TrueBoxes:
    boxes: list[list[float]] = []
    for values in rows:
        if len(values) == 5:
            _, cx, cy, w, h = values
            corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        else:
            xs, ys = values[1::2], values[2::2]
            corners = (min(xs), min(ys), max(xs), max(ys))
        boxes.append([v * s for v, s in zip(corners, (*size_wh, *size_wh), strict=True)])
    labels = np.array([int(values[0]) for values in rows], np.int64)
    return TrueBoxes(np.array(boxes, np.float64).reshape(-1, 4), labels)

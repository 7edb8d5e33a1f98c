"""What fine-tuning cost: mAP on the classes that the base model knew, before and after."""

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
from toolkit.methods.yolo.detect import detect
from toolkit.methods.yolo.prompts import NOT_CLIP
from toolkit.metrics.boxes import BoxMetrics, PredictedBoxes, TrueBoxes, box_metrics
from toolkit.metrics.values import to_json
from toolkit.prediction import Boxes


@dataclass(frozen=True)
class OldData:
    """Labelled images of the classes that the base model knew.

    Attributes:
        names: of the classes, in the order of their indices.
        images: files.
        labels: of each image, rows `class cx cy w h` or `class x y x y …`; may be missing.
    """

    names: tuple[str, ...]
    images: tuple[Path, ...]
    labels: tuple[Path, ...]


def read_old_data(data_yaml: Path) -> OldData:
    """Read the validation part of a data set in YOLO's layout.

    Raises:
        ConfigError: it is no such data set, has no images, or a label file is none of boxes.
    """
    content = read_yaml(data_yaml)
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or "val" not in content:
        raise ConfigError(f"old_data={data_yaml}: needs 'val' and 'names', as YOLO data files do")
    if set(names) != set(range(len(names))):
        raise ConfigError(f"old_data={data_yaml}: number the names from 0 on, without a gap")
    folder = data_yaml.parent / content.get("path", "") / str(content["val"])
    images = tuple(sorted(f for f in folder.rglob("*") if is_image_file(f)))
    if not images:
        raise ConfigError(f"old_data={data_yaml}: no images in {folder}")
    labels = tuple(_label_of(image) for image in images)
    for label in labels:
        _rows(label, n_classes=len(names))
    return OldData(
        names=tuple(str(names[index]) for index in sorted(names)), images=images, labels=labels
    )


def why_none(*, source: str, old_data: str) -> str | None:
    """Say why there is nothing to compare; None where there is.

    Args:
        source: of the run's prompts.
        old_data: setting of that name.
    """
    if NOT_CLIP in source or "CLIP" not in source:
        return f"the prompts ({source}) are none that a base model knew classes by"
    if not old_data:
        return "no images of old classes were given (old_data)"
    return None


def forgetting(
    before: Any, after: Any, data: OldData, *, image_size: int, nms_iou: float, device: str
) -> dict[str, Any]:
    """Compare two networks on the old classes.

    Args:
        before: the base model, with the old classes as its vocabulary.
        after: the fine-tuned one, with the same.
        data: images and boxes.
        image_size: longest side that images are resized to.
        nms_iou: see `detect`.
        device: of both networks.

    Returns:
        mAP50 and mAP50-95 of both, and the differences, after minus before.

    Raises:
        DataError: an image cannot be read.
    """
    figures: dict[str, Any] = {"images": len(data.images), "classes": len(data.names)}
    metrics = {
        name: _metrics(network, data, image_size=image_size, nms_iou=nms_iou, device=device)
        for name, network in (("before", before), ("after", after))
    }
    for figure in ("map50", "map50_95"):
        values = {name: to_json(getattr(found, figure)) for name, found in metrics.items()}
        figures |= {f"{figure}_{name}": value for name, value in values.items()}
        if all(isinstance(value, float) for value in values.values()):
            figures[f"{figure}_change"] = values["after"] - values["before"]
    return figures


def _metrics(
    network: Any, data: OldData, *, image_size: int, nms_iou: float, device: str
) -> BoxMetrics:
    index = {name: i for i, name in enumerate(data.names)}
    truth, said = [], []
    for path, label in zip(data.images, data.labels, strict=True):
        image = read_rgb(path)
        rows = _rows(label, n_classes=len(data.names))
        truth.append(_true_boxes(rows, size_wh=(image.shape[1], image.shape[0])))
        found: Boxes = detect(network, image, image_size=image_size, nms_iou=nms_iou, device=device)
        labels = np.array([index[name] for name in found.labels], np.int64)
        said.append(PredictedBoxes(found.xyxy.astype(np.float64), found.scores, labels))
    return box_metrics(truth, said, class_names=data.names)


def _label_of(image: Path) -> Path:
    """Replace the last folder `images` by `labels`, as Ultralytics does."""
    parts = list(image.parts)
    places = [i for i, part in enumerate(parts) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _rows(label: Path, *, n_classes: int) -> list[list[float]]:
    """Read a label file, none for an image without boxes.

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
                f"from 0 to {n_classes - 1}; mend it"
            )
        rows.append(values)
    return rows


def _true_boxes(rows: Sequence[Sequence[float]], *, size_wh: tuple[int, int]) -> TrueBoxes:
    boxes: list[Sequence[float]] = []
    labels: list[int] = []
    for values in rows:
        if len(values) == 5:
            _, cx, cy, w, h = values
            corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        else:
            xs, ys = values[1::2], values[2::2]
            corners = (min(xs), min(ys), max(xs), max(ys))
        boxes.append([v * s for v, s in zip(corners, (*size_wh, *size_wh), strict=True)])
        labels.append(int(values[0]))
    return TrueBoxes(np.array(boxes, np.float64).reshape(-1, 4), np.array(labels, np.int64))

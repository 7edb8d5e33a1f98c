"""Predict new images with a finished run: an overlay, a record and YOLO labels for each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from toolkit.data.images import is_image_file, read_rgb, whole_image_size
from toolkit.data.types import GOOD, Sample
from toolkit.errors import DataError
from toolkit.files import write_text
from toolkit.runs.overlay import overlay, save_picture
from toolkit.runs.prediction import Boxes, Prediction
from toolkit.runs.run import Run
from toolkit.runs.storage import read_predictions

_BOX_CONFIDENCE = 0.25


def image_samples(places: Sequence[Path]) -> list[Sample]:
    """Turn image files, and folders of them, into samples without truth.

    Raises:
        DataError: a place does not exist, an image is none or cut short, or two share their stem.
    """
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            files += sorted(f for f in place.rglob("*") if is_image_file(f))
        elif place.is_file():
            files.append(place)
        else:
            raise DataError(f"{place}: no such file or folder; give images")
    if not files:
        raise DataError(f"{places[0]}: no images there")
    ids: dict[str, Path] = {}
    for file in files:
        whole_image_size(file)  # a cut short file is found before the others are answered
        name = file.stem if file.stem not in ids else f"{file.parent.name}__{file.stem}"
        if name in ids:
            raise DataError(f"{file}: has the name of {ids[name]}; predict them one by one")
        ids[name] = file
    return [Sample(id=name, image=file, label=GOOD) for name, file in ids.items()]


def validation_heat_range(run: Run) -> tuple[float, float] | None:
    """Return the score-map values of no and of full colour, the same for all pictures of a run.

    They are the median of all validation maps and the median of their maxima, so that a good image
    stays clear and a strong defect glows. None where the run has no score maps.
    """
    maps = [p.score_map for p in read_predictions(run.predictions, "val")]
    found = [m for m in maps if m is not None]
    if not found:
        return None
    low = float(np.median([np.median(m) for m in found]))
    return low, max(float(np.median([m.max() for m in found])), low + 1e-9)


def write_answers(
    samples: Sequence[Sample],
    predictions: Iterator[Prediction],
    *,
    out: Path,
    threshold: float | None,
    heat_range: tuple[float, float] | None = None,
    classes: Sequence[str] = (),
) -> Iterator[tuple[Sample, Prediction, bool | None]]:
    """Write an overlay per image and `predictions.json`; yield each answer as it is made.

    Where the method finds boxes and its classes are known, `labels/<id>.txt` has one row
    `class cx cy w h confidence` per box that is drawn, in fractions of the image's sides, and
    `labels/classes.txt` the names of the classes in their order.

    Args:
        samples: the images.
        predictions: one per image, in the same order.
        out: the folder.
        threshold: of the run; None where it has none.
        heat_range: see `validation_heat_range`.
        classes: names of the classes that boxes have.

    Yields:
        The sample, its prediction, and whether it is defective at the run's threshold (None where
        the run has none).
    """
    records = []
    for sample, prediction in zip(samples, predictions, strict=True):
        defective = None if threshold is None else prediction.score >= threshold
        image, floor = read_rgb(sample.image), _box_floor(prediction, threshold)
        picture = overlay(image, prediction, heat_range=heat_range, box_confidence=floor)
        save_picture(picture, out / f"{sample.id}.jpg")
        if classes and prediction.boxes is not None:
            size_wh = (image.shape[1], image.shape[0])
            rows = _label_rows(prediction.boxes, floor=floor, classes=classes, size_wh=size_wh)
            write_text(out / f"labels/{sample.id}.txt", "".join(rows))
        record = {
            "image": str(sample.image),
            "score": float(prediction.score),
            "threshold": threshold,
            "defective": None if defective is None else bool(defective),
        }
        if prediction.class_probabilities is not None:
            record["class_probabilities"] = dict(prediction.class_probabilities)
        if prediction.boxes is not None:
            boxes = prediction.boxes
            record["boxes"] = [
                {"box_xyxy": [float(v) for v in box], "score": float(score), "label": label}
                for box, score, label in zip(boxes.xyxy, boxes.scores, boxes.labels, strict=True)
            ]
        records.append(record)
        yield sample, prediction, defective
    write_text(out / "predictions.json", json.dumps(records, indent=2) + "\n")
    if (out / "labels").is_dir():
        write_text(out / "labels/classes.txt", "".join(f"{name}\n" for name in classes))


def _box_floor(prediction: Prediction, threshold: float | None) -> float:
    """Return the score from which on a box is shown.

    Where the image's score is that of its best box, a box counts from the image's threshold on: an
    image that is called defective shows why.
    """
    boxes = prediction.boxes
    if threshold is None or boxes is None or not len(boxes):
        return _BOX_CONFIDENCE
    if not np.isclose(float(boxes.scores.max()), prediction.score, rtol=1e-5, atol=0):
        return _BOX_CONFIDENCE
    return threshold


def _label_rows(
    boxes: Boxes, *, floor: float, classes: Sequence[str], size_wh: tuple[int, int]
) -> Iterator[str]:
    index = {name: i for i, name in enumerate(classes)}
    width, height = size_wh
    for box, score, label in zip(boxes.xyxy, boxes.scores, boxes.labels, strict=True):
        if score < floor or label not in index:
            continue
        x0, y0, x1, y1 = (float(v) for v in box)
        place = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width,
                 (y1 - y0) / height)  # fmt: skip
        yield " ".join([str(index[label]), *(f"{v:.6f}" for v in place), f"{score:.6f}"]) + "\n"

"""Predict new images with a finished run: a JSON line and an overlay for each."""

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
from toolkit.runs.prediction import Prediction
from toolkit.runs.run import Run
from toolkit.runs.storage import read_predictions


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
) -> Iterator[tuple[Sample, Prediction, bool | None]]:
    """Write an overlay per image and `predictions.json`; yield each answer as it is made.

    Yields:
        The sample, its prediction, and whether it is defective at the run's threshold (None where
        the run has none).
    """
    records = []
    for sample, prediction in zip(samples, predictions, strict=True):
        defective = None if threshold is None else prediction.score >= threshold
        picture = overlay(read_rgb(sample.image), prediction, heat_range=heat_range)
        save_picture(picture, out / f"{sample.id}.jpg")
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

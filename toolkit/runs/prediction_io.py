"""Predictions on disk: one JSON line per image, masks as RLE, anomaly maps as `.npy` beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import RunError
from toolkit.files import atomic_write, short_name
from toolkit.prediction import Boxes, Prediction

SCHEMA = 1
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


def write_predictions(folder: Path, part: str, predictions: Iterable[Prediction]) -> int:
    """Store the predictions of one part (`val` or `test`); the file appears once it is complete.

    Args:
        folder: the run's `predictions/`.
        part: name of the part.
        predictions: consumed one by one, so a long iterator needs no memory.

    Returns:
        The number of predictions written.

    Raises:
        RunError: a score is not a finite number, so that no ranking could be right.
        OutputError: the disk is full or not writable.
    """
    count = 0
    path = folder / f"{part}.jsonl"
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for prediction in predictions:
            file.write(json.dumps(_to_record(folder, part, prediction), sort_keys=True) + "\n")
            count += 1
    return count


def read_predictions(folder: Path, part: str, *, pixels: bool = True) -> Iterator[Prediction]:
    """Read stored predictions one by one.

    Args:
        folder: the run's `predictions/`.
        part: name of the part.
        pixels: whether masks and anomaly maps are decoded too.

    Raises:
        RunError: there are none, or a file is missing or damaged; the message names it.
    """
    path = folder / f"{part}.jsonl"
    try:
        # As bytes: a byte that is not UTF-8 is an error of its line.
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    prediction = _from_record(folder, json.loads(line), pixels)
                except _DAMAGE as error:
                    raise RunError(
                        f"{path}: line {number} is damaged ({error}); run the method again"
                    ) from error
                yield prediction
    except OSError as error:
        raise RunError(
            f"{path}: no stored predictions ({error.strerror}); run the method again"
        ) from error


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Encode a bool mask (H, W) as COCO run-length encoding with text counts."""
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: dict[str, Any]) -> np.ndarray:
    """Decode COCO run-length encoding to a bool mask (H, W)."""
    from pycocotools import mask as coco_mask

    return np.asarray(coco_mask.decode(rle), dtype=np.bool_)


def _to_record(folder: Path, part: str, prediction: Prediction) -> dict[str, Any]:
    if not math.isfinite(prediction.score):
        raise RunError(
            f"{prediction.sample_id}: its score is {prediction.score}; training has diverged or "
            "the image is damaged: lower the learning rate, or see: toolkit dataset check"
        )
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "id": prediction.sample_id,
        "score": float(prediction.score),
        "seconds": prediction.seconds,
    }
    if prediction.class_probabilities is not None:
        record["class_probabilities"] = {
            label: float(value) for label, value in prediction.class_probabilities.items()
        }
    if prediction.boxes is not None:
        record["boxes"] = {
            "xyxy": prediction.boxes.xyxy.astype(float).tolist(),
            "scores": prediction.boxes.scores.astype(float).tolist(),
            "labels": list(prediction.boxes.labels),
        }
    if prediction.mask is not None:
        record["mask"] = encode_mask(prediction.mask)
    if prediction.anomaly_map is not None:
        folders, _, file_name = prediction.sample_id.rpartition("/")
        inner = f"{folders}/{short_name(file_name)}" if folders else short_name(file_name)
        name = f"{part}/{inner}.npy"  # ids are unique as they are
        with atomic_write(folder / name) as temporary, temporary.open("wb") as file:
            np.save(file, prediction.anomaly_map.astype(np.float32))
        record["anomaly_map"] = name
    return record


def _from_record(folder: Path, record: dict[str, Any], pixels: bool) -> Prediction:
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema {record['schema']}, not {SCHEMA}")
    boxes = None
    if "boxes" in record:
        stored = record["boxes"]
        boxes = Boxes(
            xyxy=np.asarray(stored["xyxy"], np.float32).reshape(-1, 4),
            scores=np.asarray(stored["scores"], np.float32).reshape(-1),
            labels=tuple(map(str, stored["labels"])),
        )
        if not len(boxes.xyxy) == len(boxes.scores) == len(boxes.labels):
            raise ValueError("boxes, scores and labels of different numbers")
    probabilities, seconds = record.get("class_probabilities"), record.get("seconds")
    if probabilities is not None:
        probabilities = {str(name): _number(value) for name, value in probabilities.items()}
    return Prediction(
        sample_id=_text(record["id"]),
        score=_number(record["score"]),
        class_probabilities=probabilities,
        boxes=boxes,
        mask=decode_mask(record["mask"]) if pixels and "mask" in record else None,
        anomaly_map=_read_map(folder / _text(record["anomaly_map"]))
        if pixels and "anomaly_map" in record
        else None,
        seconds=None if seconds is None else _number(seconds),
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{str(value)[:40]!r} and no number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!s:.40} is no text")
    return value


def _read_map(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path))
    except OSError as error:
        raise RunError(
            f"{path}: the anomaly map cannot be read ({error.strerror or error}); run the method "
            "again"
        ) from error
    except (ValueError, EOFError) as error:
        raise RunError(
            f"{path}: the anomaly map is damaged ({error}); run the method again"
        ) from error

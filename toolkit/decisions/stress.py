"""How a finished run bears changes of light, focus, place and camera, at its frozen threshold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.images import read_rgb, read_truth
from toolkit.data.types import Dataset, Sample
from toolkit.decisions.card import model_sha256, training_sha256
from toolkit.decisions.changes import CHANGES, STRENGTHS, changed
from toolkit.errors import DataError, RunError, did_you_mean
from toolkit.files import read_json, write_json
from toolkit.inference.model import Model
from toolkit.metrics.image import image_metrics
from toolkit.metrics.pixel import pixel_metrics
from toolkit.metrics.values import Undefined, Value, to_json, value_from_json
from toolkit.progress import progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA = 1
_KIND = "stress test"
UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Cell:
    """What one change at one strength does to a run.

    Attributes:
        auroc: image level, on raw scores.
        escapes, overkill: defective images below the threshold, good images at or above it.
        pixel_auroc: of the anomaly maps at their own resolution against the masks, which move
            along with the image; undefined where the method has no maps.
    """

    auroc: Value
    escapes: int
    overkill: int
    pixel_auroc: Value


@dataclass(frozen=True)
class Stress:
    """A run under all changes.

    Attributes:
        name: `method/run`.
        threshold: the frozen image-level threshold.
        n_good, n_defect: images that were changed.
        unchanged: without a change.
        cells: by change, one per strength.
    """

    name: str
    threshold: float
    n_good: int
    n_defect: int
    unchanged: Cell
    cells: Mapping[str, tuple[Cell, ...]]


def stress(
    model: Model,
    dataset: Dataset,
    *,
    changes: Sequence[str] = tuple(CHANGES),
    seed: int = 0,
    out: Path | None = None,
) -> Stress:
    """Predict the test images of a data set under each change at each strength.

    Nothing is trained or calibrated again: the threshold stays that of the run, or of the model's
    calibration card. Images that the run was trained on are left out.

    Example:
        >>> found = stress(toolkit.load_model("runs/patchcore/001"),
        ...                toolkit.load_dataset("mvtec/bottle"))  # doctest: +SKIP
        >>> [cell.overkill for cell in found.cells["darker"]]  # doctest: +SKIP
        [0, 0, 1, 4, 20]

    Args:
        model: the loaded run.
        dataset: its data (the run's own test part is used), or other images of the same product.
        changes: names of changes, see `CHANGES`.
        seed: of directions, noise and specks.
        out: JSON file to which each result is written as soon as it is there; what it holds of the
            same model and images is not computed again.

    Raises:
        DataError: an unknown change, or no test images of which some are good and some defective.
        RunError: the model has no threshold, or the file holds the test of another model.
    """
    for kind in changes:
        if kind not in CHANGES:
            raise DataError(f"change {kind}: unknown{did_you_mean(kind, CHANGES)}")
    if model.threshold is None:
        raise RunError(f"{model.run.path}: has no threshold; calibrate it: toolkit calibrate")
    samples = images_to_stress(model, dataset)
    defects = sum(s.is_defect for s in samples)
    identity = _identity(model, dataset, samples, seed)
    cells: dict[str, Any] = {} if out is None else _stored(out, identity)
    record = {
        "kind": _KIND,
        "schema": SCHEMA,
        "identity": identity,
        "name": f"{model.run.method}/{model.run.path.name}",
        "threshold": model.threshold,
        "n_good": len(samples) - defects,
        "n_defect": defects,
        "cells": cells,
    }
    wanted = [(UNCHANGED, 0), *((kind, strength) for kind in changes for strength in STRENGTHS)]
    with progress(f"{record['name']}: changed images", len(wanted) * len(samples)) as bar:
        for kind, strength in wanted:
            key = f"{kind} {strength}"
            if key in cells:
                bar.skip(len(samples))
                continue
            found = _cell(model, samples, kind, strength, seed, bar.advance)
            cells[key] = to_json(found)
            if out is not None:
                write_json(out, record)
    return _from_record(record, changes)


def read_stress(path: Path) -> Stress:
    """Read a finished test from its file.

    Raises:
        RunError: the file is missing, damaged or no stress test.
    """
    record = read_json(path)
    try:
        kinds = dict.fromkeys(key.rsplit(" ", 1)[0] for key in record["cells"])
        return _from_record(record, [kind for kind in kinds if kind != UNCHANGED])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: no stress test, or damaged ({error}); make it again") from error


def images_to_stress(model: Model, dataset: Dataset) -> tuple[Sample, ...]:
    """Return the run's test images if it was made on this data, else those it was not trained on.

    Raises:
        DataError: there are no good or no defective ones.
    """
    run = model.run
    if run.record["data"]["fingerprint"] == dataset.fingerprint:
        samples = tuple(dataset.by_id[name] for name in run.record["split"]["test"])
    else:
        trained_on = training_sha256(run)
        samples = tuple(
            s for s in dataset if s.part == "test" and dataset.content[s.id] not in trained_on
        )
    defects = sum(s.is_defect for s in samples)
    if not 0 < defects < len(samples):
        raise DataError(
            f"{dataset.root}: {len(samples) - defects} good and {defects} defective test images "
            "that the run was not trained on; a stress test needs both"
        )
    return samples


def _cell(
    model: Model, samples: Sequence[Sample], kind: str, strength: int, seed: int, advance: Any
) -> Cell:
    is_defect = np.array([s.is_defect for s in samples], np.bool_)
    pairs: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
    masks: list[NDArray[np.bool_]] = []

    def images() -> Iterator[NDArray[np.uint8]]:
        for number, sample in enumerate(samples):
            image, mask = read_rgb(sample.image), read_truth(sample)
            if kind != UNCHANGED:
                image, moved = changed(image, mask, kind, strength, seed=seed, number=number)
                assert moved is not None
                mask = moved
            masks.append(mask)
            yield image

    scores = []
    for result in model.predict(images(), stream=True):
        scores.append(result.score)
        truth = masks.pop(0)
        if (raw := result.prediction.anomaly_map) is not None:
            pairs.append((raw, _resized(truth, raw.shape[:2])))
        advance()
    metrics = image_metrics(np.array(scores), is_defect, threshold=model.threshold)
    assert not isinstance(metrics.decisions, Undefined)
    return Cell(
        auroc=metrics.auroc,
        escapes=metrics.decisions.fn,
        overkill=metrics.decisions.fp,
        pixel_auroc=pixel_metrics(pairs, limits=(0.3,)).auroc if pairs else Undefined("no maps"),
    )


def _resized(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a mask on a coarser grid: a cell is defective where any of its pixels is."""
    import cv2

    if mask.shape == shape:
        return mask
    area = cv2.resize(mask.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(area > 0, np.bool_)


def _identity(model: Model, dataset: Dataset, samples: Sequence[Sample], seed: int) -> str:
    """Return a hash of everything that a result depends on."""
    parts = [
        model_sha256(model.run),
        model.threshold,
        [dataset.content[s.id] for s in samples],
        {kind: change.values for kind, change in CHANGES.items()},
        seed,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _stored(path: Path, identity: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    record = read_json(path)
    if not isinstance(record, dict) or record.get("kind") != _KIND:
        raise RunError(f"{path}: is no stress test; choose another --out")
    if record.get("identity") != identity:
        raise RunError(
            f"{path}: is of another model, threshold, seed or of other images; choose another "
            "--out, or remove it"
        )
    return dict(record["cells"])


def _from_record(record: Mapping[str, Any], changes: Sequence[str]) -> Stress:
    def cell(key: str) -> Cell:
        stored = record["cells"][key]
        return Cell(
            auroc=value_from_json(stored["auroc"]),
            escapes=int(stored["escapes"]),
            overkill=int(stored["overkill"]),
            pixel_auroc=value_from_json(stored["pixel_auroc"]),
        )

    return Stress(
        name=record["name"],
        threshold=record["threshold"],
        n_good=record["n_good"],
        n_defect=record["n_defect"],
        unchanged=cell(f"{UNCHANGED} 0"),
        cells={
            kind: tuple(cell(f"{kind} {strength}") for strength in STRENGTHS) for kind in changes
        },
    )

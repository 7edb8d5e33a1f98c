"""Stored predictions beside the truth, and what makes them fit to be scored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.types import Dataset, Sample
from toolkit.errors import RunError
from toolkit.prediction import Prediction
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Judged:
    """The stored predictions of one run on one part, beside the truth.

    Attributes:
        run: the run.
        part: `val` or `test`.
        samples: the images, in the order of the split.
    """

    run: Run
    part: str
    samples: tuple[Sample, ...]

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Raw image-level scores, float64 (n,)."""
        return np.array([p.score for p in self.light], np.float64)

    @cached_property
    def is_defect(self) -> NDArray[np.bool_]:
        """Truth, bool (n,)."""
        return np.array([s.is_defect for s in self.samples], np.bool_)

    @cached_property
    def light(self) -> tuple[Prediction, ...]:
        """The predictions without masks and anomaly maps, in the order of `samples`.

        Raises:
            RunError: see `light_predictions`.
        """
        return light_predictions(self.run, self.part)

    def pixels(self) -> Iterator[tuple[Prediction, Sample]]:
        """Yield the predictions with masks and anomaly maps, one by one, as they are stored."""
        by_id = {s.id: s for s in self.samples}
        for prediction in read_predictions(self.run.predictions, self.part):
            yield prediction, by_id[prediction.sample_id]


def judged(run: Run, dataset: Dataset, part: str) -> Judged:
    """Put a run's predictions beside the truth.

    Raises:
        RunError: the data set is not the one the run was made on (it may have been moved).
    """
    ids = run.record["split"][part]
    missing = [name for name in ids if name not in dataset.by_id]
    if missing:
        raise RunError(f"{run.path}: {dataset.root} has no image {missing[0]}; give the right data")
    if run.record["data"]["fingerprint"] != dataset.fingerprint:
        raise RunError(
            f"{run.path}: {dataset.root} is not the data of this run (images, labels or masks have "
            "changed); give the right data, or run the method again"
        )
    return Judged(run=run, part=part, samples=tuple(dataset.by_id[name] for name in ids))


def light_predictions(run: Run, part: str) -> tuple[Prediction, ...]:
    """Return the predictions without masks and anomaly maps, in the order of the split.

    Raises:
        RunError: a prediction is missing, there are two, one is for an image that the split does
            not name, or a score is no finite number.
    """
    found: dict[str, Prediction] = {}
    for p in read_predictions(run.predictions, part, pixels=False):
        if not isinstance(p.sample_id, str):
            raise RunError(f"{run.path}: a prediction names no image; run the method again")
        if p.sample_id in found:
            raise RunError(f"{run.path}: two predictions for {p.sample_id}; run the method again")
        _check_finite(run, p)
        found[p.sample_id] = p
    wanted = run.record["split"][part]
    unknown, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    if unknown:
        raise RunError(
            f"{run.path}: a prediction for unknown image {unknown[0]}; run the method again"
        )
    if missing:
        raise RunError(f"{run.path}: no prediction for {missing[0]}; run the method again")
    return tuple(found[name] for name in wanted)


def _check_finite(run: Run, prediction: Prediction) -> None:
    shares = prediction.class_probabilities or {}
    for value in (prediction.score, *shares.values()):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RunError(
                f"{run.path}: a score of {prediction.sample_id} is {value!r} and no number; "
                "run the method again"
            )
        if not math.isfinite(value):
            raise RunError(
                f"{run.path}: a score of {prediction.sample_id} is {value}; run the method again"
            )
    boxes = prediction.boxes
    if boxes is not None and not (
        np.isfinite(boxes.xyxy).all() and np.isfinite(boxes.scores).all()
    ):
        raise RunError(
            f"{run.path}: a box of {prediction.sample_id} holds NaN or infinity; "
            "run the method again"
        )

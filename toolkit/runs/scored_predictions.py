"""Stored predictions of a run beside the true labels, checked so that they can be scored."""

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
from toolkit.runs.record import EVALUATED, check_record
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoredPredictions:
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
        return np.array([p.score for p in self.predictions], np.float64)

    @cached_property
    def is_defect(self) -> NDArray[np.bool_]:
        """Truth, bool (n,)."""
        return np.array([s.is_defect for s in self.samples], np.bool_)

    @cached_property
    def predictions(self) -> tuple[Prediction, ...]:
        """The predictions without masks and anomaly maps, in the order of `samples`.

        Raises:
            RunError: see `checked_predictions`.
        """
        return checked_predictions(self.run, self.part)

    def with_pixels(self) -> Iterator[tuple[Prediction, Sample]]:
        """Yield predictions with masks and anomaly maps one by one, in the order of the file."""
        by_id = {s.id: s for s in self.samples}
        for prediction in read_predictions(self.run.predictions, self.part):
            yield prediction, by_id[prediction.sample_id]


def load_scored_predictions(run: Run, dataset: Dataset, part: str) -> ScoredPredictions:
    """Return a run's predictions on `val` or `test` beside the truth.

    Raises:
        RunError: the data set is not the one that the run was made on (it may have been moved).
    """
    check_record(run, EVALUATED)
    ids = run.record["split"][part]
    missing = [name for name in ids if name not in dataset.by_id]
    if missing:
        raise RunError(f"{run.path}: {dataset.root} has no image {missing[0]}; give the right data")
    if run.record["data"]["fingerprint"] != dataset.fingerprint:
        raise RunError(
            f"{run.path}: {dataset.root} is not the data of this run (images, labels or masks have "
            "changed); give the right data, or run the method again"
        )
    return ScoredPredictions(run, part, tuple(dataset.by_id[name] for name in ids))


def checked_predictions(run: Run, part: str) -> tuple[Prediction, ...]:
    """Return the predictions without masks and anomaly maps, in the order of the split.

    Raises:
        RunError: a prediction is missing, duplicate or of an image outside the split, or a number
            is not finite.
    """

    def damaged(problem: str) -> RunError:
        return RunError(f"{run.path}: {problem}; run the method again")

    found: dict[str, Prediction] = {}
    for prediction in read_predictions(run.predictions, part, pixels=False):
        name = prediction.sample_id
        if not isinstance(name, str):
            raise damaged("a prediction names no image")
        if name in found:
            raise damaged(f"two predictions for {name}")
        for value in (prediction.score, *(prediction.class_probabilities or {}).values()):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise damaged(f"a score of {name} is {value!r} and no number")
            if not math.isfinite(value):
                raise damaged(f"a score of {name} is {value}")
        if prediction.class_probabilities == {}:
            raise damaged(f"no class of {name} has a probability")
        boxes = prediction.boxes
        if boxes is not None and not (
            np.isfinite(boxes.xyxy).all() and np.isfinite(boxes.scores).all()
        ):
            raise damaged(f"a box of {name} holds NaN or infinity")
        found[name] = prediction
    wanted = run.record["split"][part]
    unknown, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    if unknown:
        raise damaged(f"a prediction for unknown image {unknown[0]}")
    if missing:
        raise damaged(f"no prediction for {missing[0]}")
    return tuple(found[name] for name in wanted)

"""Thresholds of runs from good validation images, and what they are worth on test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.types import Dataset
from toolkit.decisions.calibration import Threshold, clopper_pearson, false_alarm_threshold
from toolkit.errors import DataError
from toolkit.runs.run import Run
from toolkit.runs.scored_predictions import ScoredPredictions, load_scored_predictions

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Tested:
    """Wrong decisions on test images at calibrated thresholds, all folds together.

    Attributes:
        thresholds: of each run.
        escapes, n_defect: defective images below the threshold, of so many.
        overkill, n_good: good images at or above it, of so many.
        f1: of the class defect; 0 where nothing was right.
    """

    thresholds: tuple[Threshold, ...]
    escapes: int
    n_defect: int
    overkill: int
    n_good: int

    @property
    def f1(self) -> float:
        """F1 of the class defect."""
        found = self.n_defect - self.escapes
        wrong = self.escapes + self.overkill
        return 2 * found / (2 * found + wrong) if found else 0.0

    @property
    def weakest(self) -> Threshold:
        """The threshold from the fewest good images."""
        return min(self.thresholds, key=lambda one: one.n_good)

    def intervals(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the 95 % intervals of the shares of escapes and of overkill."""
        return (
            clopper_pearson(self.escapes, self.n_defect),
            clopper_pearson(self.overkill, self.n_good),
        )


def validation_thresholds(
    runs: Sequence[Run],
    dataset: Dataset,
    *,
    max_false_alarms: float,
    confidence: float = 0.95,
) -> tuple[Threshold, ...]:
    """Calibrate the folds of one entry with the good images of their validation parts.

    A fold has few of them, so those of the other folds count too, as far as this fold does not
    test with them. They were scored by models of other folds, whose scores differ a little, so that
    the promise of several folds is an estimate; of a single run it is exact.

    Raises:
        DataError: fewer than two good validation images, or a rate outside its range.
        RunError: predictions are missing or damaged, or the data is another.
    """
    parts = [load_scored_predictions(run, dataset, "val") for run in runs]
    thresholds = []
    for run in runs:
        tested = set(run.record["split"]["test"])
        scores = np.concatenate([_good_scores(part, tested) for part in parts])
        if len(scores) < 2:
            raise DataError(
                f"{run.path}: {len(scores)} good validation images; a threshold needs at least two"
            )
        thresholds.append(
            false_alarm_threshold(scores, max_false_alarms=max_false_alarms, confidence=confidence)
        )
    return tuple(thresholds)


def wrong_decisions(
    runs: Sequence[Run], dataset: Dataset, thresholds: Sequence[Threshold]
) -> Tested:
    """Count the wrong decisions on the test parts, each run at its own threshold.

    Raises:
        RunError: predictions are missing or damaged, or the data is another.
    """
    escapes = overkill = n_defect = n_good = 0
    for run, threshold in zip(runs, thresholds, strict=True):
        part = load_scored_predictions(run, dataset, "test")
        flagged = part.scores >= threshold.value
        escapes += int((~flagged & part.is_defect).sum())
        overkill += int((flagged & ~part.is_defect).sum())
        n_defect += int(part.is_defect.sum())
        n_good += int((~part.is_defect).sum())
    return Tested(tuple(thresholds), escapes, n_defect, overkill, n_good)


def _good_scores(part: ScoredPredictions, left_out: set[str]) -> NDArray[np.float64]:
    wanted = [not s.is_defect and s.id not in left_out for s in part.samples]
    return part.scores[np.array(wanted, np.bool_)] if wanted else part.scores

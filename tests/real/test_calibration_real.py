"""Calibrated thresholds keep their promise on scores of real images, too."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from toolkit.data.images import read_rgb
from toolkit.decisions.calibration import false_alarm_threshold

N_CALIBRATIONS = 2000


@pytest.fixture(scope="module")
def scores(bottle_dir: Path) -> NDArray[np.float64]:
    """How far each good bottle's mean colour is from the mean of all, sorted."""
    files = sorted((bottle_dir / "train/good").iterdir())
    means = np.array([read_rgb(file)[::8, ::8].mean(axis=(0, 1)) for file in files])
    return np.sort(np.linalg.norm(means - means.mean(axis=0), axis=1))


@pytest.mark.parametrize(("n", "rate"), [(59, 0.05), (299, 0.01), (1000, 0.01), (1000, 0.05)])
def test_the_promise_holds(n: int, rate: float, scores: NDArray[np.float64]) -> None:
    # Drawn with replacement, so that these images are all the products there are.
    drawn = np.random.default_rng(n).choice(scores, (N_CALIBRATIONS, n))
    kept = []
    for row in drawn:
        value = false_alarm_threshold(row, max_false_alarms=rate, confidence=0.95).value
        flagged = len(scores) - int(np.searchsorted(scores, value, side="left"))
        kept.append(flagged / len(scores) <= rate)
    assert np.mean(kept) >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / N_CALIBRATIONS)

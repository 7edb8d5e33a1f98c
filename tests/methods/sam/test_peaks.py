from __future__ import annotations

import numpy as np
import pytest

from toolkit.methods.sam.peaks import peaks


def test_peaks_are_the_separate_hills_highest_first() -> None:
    anomaly_map = np.zeros((50, 100), np.float32)
    anomaly_map[10, 20], anomaly_map[30, 80], anomaly_map[40, 50] = (
        3,
        5,
        1,
    )  # the last is under half
    found = peaks(anomaly_map, (200, 100), limit=5)
    assert [(x, y, v) for x, y, v in found] == [
        (pytest.approx(160.5), pytest.approx(60.5), 5),
        (pytest.approx(40.5), pytest.approx(20.5), 3),
    ]


def test_a_plateau_gives_one_peak_per_neighbourhood_and_the_limit_holds() -> None:
    found = peaks(np.ones((40, 40), np.float32), (40, 40), limit=4)
    assert len(found) == 4
    assert all(
        max(abs(a[0] - b[0]), abs(a[1] - b[1])) > 2 for a in found for b in found if a is not b
    )

"""Where the time of trainings goes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from toolkit.runs.profile import EVALUATE, FIT, PREDICT, phase, profiles
from toolkit.runs.run import Run


def make(folder: Path, entry: str, fit_seconds: float) -> Run:
    run = Run.create(folder, method="grey", settings={}, split={}, data={}, seed=0)
    run.update_metadata(entry=entry, fit_seconds=fit_seconds)
    return run


def test_phases_add_up_within_a_run_and_over_runs(tmp_path: Path) -> None:
    first, second = (make(tmp_path, "a", seconds) for seconds in (2.0, 3.0))
    for run, times in ((first, 2), (second, 1)):
        for _ in range(times):
            with phase(run, PREDICT):
                time.sleep(0.02)
    (found,) = profiles([Run.open(first.path), second])
    assert (found.entry, found.runs, found.seconds[FIT]) == ("a", 2, 5.0)
    assert found.seconds[PREDICT] >= 0.06
    assert EVALUATE not in found.seconds
    assert found.total == pytest.approx(sum(found.seconds.values()))


def test_the_longest_entry_is_first(tmp_path: Path) -> None:
    runs = [make(tmp_path, "short", 1.0), make(tmp_path, "long", 9.0)]
    assert [one.entry for one in profiles(runs)] == ["long", "short"]


def test_a_failed_phase_is_not_counted(tmp_path: Path) -> None:
    run = make(tmp_path, "a", 1.0)
    with pytest.raises(ValueError, match="wrong"), phase(run, PREDICT):
        raise ValueError("wrong")
    assert PREDICT not in profiles([run])[0].seconds

"""Where the time of trainings goes: each run records how long its phases took."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from toolkit.runs.run import Run

FIT, ENGINE, PREDICT, EVALUATE = "fit", "engine", "predict", "evaluate"
PHASES = (FIT, ENGINE, PREDICT, EVALUATE)
"""Learning; making and checking the engine; predicting validation and test part; metrics."""
_KEY = "phase_seconds"


@contextmanager
def phase(run: Run, name: str) -> Iterator[None]:
    """Add the seconds that the block takes to a phase of the run.

    Of a run that was interrupted and resumed, the phases add up over both.
    """
    started = time.perf_counter()
    yield
    seconds = {**_seconds(run)}
    seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 2)
    run.update_metadata(**{_KEY: seconds})


@dataclass(frozen=True)
class Profile:
    """How long the trainings of one entry took.

    Attributes:
        entry: name of the leaderboard's row.
        runs: number of runs.
        seconds: by phase, summed over the runs; a phase that no run recorded is missing.
    """

    entry: str
    runs: int
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())


def profiles(runs: Iterable[Run]) -> list[Profile]:
    """Return how long the phases of each entry took, the longest entry first.

    Example:
        >>> profiles([])
        []

    Args:
        runs: finished runs; those of older versions recorded the fit alone.
    """
    by_entry: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_entry[str(run.metadata.get("entry", run.method))].append(run)
    found = [Profile(entry, len(some), _summed(some)) for entry, some in by_entry.items()]
    return sorted(found, key=lambda one: -one.total)


def _summed(runs: Sequence[Run]) -> dict[str, float]:
    found = [_seconds(run) for run in runs]
    return {
        name: round(sum(one.get(name, 0.0) for one in found), 2)
        for name in PHASES
        if any(name in one for one in found)
    }


def _seconds(run: Run) -> dict[str, float]:
    stored = run.metadata.get(_KEY)
    seconds = dict(stored) if isinstance(stored, dict) else {}
    if FIT not in seconds and isinstance(run.metadata.get("fit_seconds"), int | float):
        seconds[FIT] = float(run.metadata["fit_seconds"])
    return seconds

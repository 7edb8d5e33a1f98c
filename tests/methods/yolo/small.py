"""Trainings of a few seconds, whole and killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from toolkit.data.splits import Split
from toolkit.runs.environment import seed_everything
from toolkit.runs.run import Run

TINY = {
    "weights": "none",
    "epochs": 2,
    "image_size": 64,
    "background_images": "2",
    "batch": 8,
    "ultralytics_args": {"plots": False},  # they take longer than the training
}

NewRun = Callable[..., tuple[Any, Run]]
"""Makes a method with tiny settings, and its run; takes the method's name, `run`, and settings."""


def fit(method: Any, run: Run, split: Split) -> None:
    """Train from the run's seed."""
    seed_everything(run.seed)
    method.fit(split, run)


class Killed(BaseException):
    """Stands for the end of the process; nothing catches it on the way."""


def stopped_after(epoch: int, method: Any, run: Run, split: Split) -> None:
    """Train until the end of an epoch, as if the process had been killed there."""
    add_result = Run.add_result

    def killed(self: Run, row: Any) -> None:
        add_result(self, row)
        if row["epoch"] == epoch:
            raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "add_result", killed)
        with pytest.raises(Killed):
            fit(method, run, split)

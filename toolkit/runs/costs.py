"""Costs of a run: fit time, memory and checkpoint size, as recorded when the run was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolkit.metrics.values import Undefined, Value
from toolkit.runs.run import Run

NOT_RECORDED = Undefined("the run did not record it")


def costs(runs: Sequence[Run]) -> dict[str, Value]:
    """Return the cost of one run, or of the runs of several folds.

    Returns:
        `fit_seconds`, summed over the folds; `peak_memory_mb` (MiB), `parameters_millions` and
        `checkpoint_mb` (10^6 bytes), of the largest fold.
    """
    return {
        "fit_seconds": sum(_recorded(runs, "fit_seconds") or [0.0]),
        "peak_memory_mb": _largest(runs, "peak_memory_mb"),
        "parameters_millions": _largest(runs, "parameters", scale=1e-6),
        "checkpoint_mb": _largest(runs, "checkpoint_bytes", scale=1e-6),
    }


def _largest(runs: Sequence[Run], name: str, *, scale: float = 1.0) -> Value:
    known = _recorded(runs, name)
    return round(max(known) * scale, 3) if known else NOT_RECORDED


def _recorded(runs: Sequence[Run], name: str) -> list[float]:
    found: list[Any] = [run.metadata.get(name) for run in runs]
    return [float(v) for v in found if isinstance(v, int | float) and not isinstance(v, bool)]


_RESUME_FILES = ("last.",)
"""Prefixes of files that hold the state of the optimiser too, for resuming."""


def checkpoint_bytes(run: Run) -> int | None:
    """Return the size of the files that prediction needs; None if the run stored none.

    Files for resuming do not count, nor do pretrained weights that lie outside the run.
    """
    folder = run.path / "weights"
    files = [file for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []
    needed = [file for file in files if not file.name.startswith(_RESUME_FILES)]
    return sum(file.stat().st_size for file in needed) if needed else None

"""What a method costs: time to fit, memory, size. As it was noted when the run was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolkit.metrics.values import Undefined, Value
from toolkit.runs.run import Run

NOT_NOTED = Undefined("the run did not note it")


def cost(runs: Sequence[Run]) -> dict[str, Value]:
    """Return the cost of one run, or of the runs of several folds.

    Returns:
        `fit_seconds`, summed over the folds; `peak_memory_mb` (MiB), `parameters_millions` and
        `checkpoint_mb` (10^6 bytes), of the largest fold.
    """
    return {
        "fit_seconds": sum(_facts(runs, "fit_seconds") or [0.0]),
        "peak_memory_mb": _largest(runs, "peak_memory_mb"),
        "parameters_millions": _largest(runs, "parameters", scale=1e-6),
        "checkpoint_mb": _largest(runs, "checkpoint_bytes", scale=1e-6),
    }


def _largest(runs: Sequence[Run], name: str, *, scale: float = 1.0) -> Value:
    known = _facts(runs, name)
    return round(max(known) * scale, 3) if known else NOT_NOTED


def _facts(runs: Sequence[Run], name: str) -> list[float]:
    found: list[Any] = [run.facts.get(name) for run in runs]
    return [float(v) for v in found if isinstance(v, int | float) and not isinstance(v, bool)]

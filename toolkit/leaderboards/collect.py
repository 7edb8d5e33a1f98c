"""Find runs, and check that they can be compared; one line for each that cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import RunError, ToolkitError
from toolkit.metrics.values import MetricError, to_json
from toolkit.runs.evaluate import SCHEMA
from toolkit.runs.record import check_record
from toolkit.runs.run import Run, find_runs
from toolkit.runs.scored_predictions import checked_predictions

_UNITS = {"ids": str, "types": str, "sizes": str, "flagged": bool}


@dataclass(frozen=True)
class Collected:
    """Runs that could be opened, and why others could not.

    Attributes:
        runs: those with a valid `run.json`.
        left_out: one line per other run.
    """

    runs: tuple[Run, ...]
    left_out: tuple[str, ...]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)


def collect(places: Sequence[Path]) -> Collected:
    """Open all runs at or below the given places, finished or not.

    Raises:
        RunError: there is no such folder, or no run in it.
    """
    for place in places:
        if not place.exists():
            raise RunError(f"{place}: no such folder; make runs with: toolkit benchmark CONFIG")
    paths = find_runs(list(places))
    if not paths:
        where = ", ".join(map(str, places))
        raise RunError(f"{where}: no run there; make one with: toolkit benchmark CONFIG")
    runs: list[Run] = []
    left_out: list[str] = []
    for path in paths:
        try:
            run = Run.open(path)
            check_record(run)
        except ToolkitError as error:
            left_out.append(str(error))
        else:
            runs.append(run)
    return Collected(runs=tuple(runs), left_out=tuple(left_out))


def check_run(run: Run) -> None:
    """Check that a run is finished and that its files are valid.

    Raises:
        RunError: it is not finished; `run.json`, `metrics.json` or the stored predictions are
            damaged, of another schema version, or do not fit the split.
    """
    check_record(run)
    if not run.finished:
        raise RunError(
            f"{run.path}: not finished (no metrics.json); continue with --resume, or where it has "
            f"predictions: toolkit evaluate {run.path}"
        )
    metrics = run.metrics()
    problem = _problem(metrics)
    if problem:
        raise RunError(
            f"{run.path}/metrics.json: {problem}; write it again with: toolkit evaluate {run.path}"
        )
    checked_predictions(run, "test")


def _problem(metrics: Mapping[str, Any]) -> str:
    """Describe the first fault of the content of a `metrics.json`; empty if there is none."""
    if "schema" not in metrics:
        return "damaged (no schema)"
    if metrics["schema"] != SCHEMA:
        return f"schema is {metrics['schema']!r}, not {SCHEMA}"
    image = metrics.get("image")
    if not isinstance(image, Mapping) or not isinstance(image.get("n_defect"), int):
        return "damaged (no image-level metrics)"
    try:
        to_json(metrics)
    except MetricError as error:
        return f"damaged ({error})"
    for name in ("images", "regions", "detections"):
        units = metrics.get(name)
        if units is None or (name == "regions" and not units):
            continue
        if not isinstance(units, Mapping) or not all(isinstance(v, list) for v in units.values()):
            return f"damaged ({name})"
        lengths = {len(listed) for key, listed in units.items() if key != "n_true"}
        if len(lengths) > 1:
            return f"damaged (lists of {name} differ in length)"
        if not all(isinstance(v, int | float) for v in units.get("scores", [])):
            return f"damaged (scores of {name})"
    for name, kind in _UNITS.items():
        if not all(isinstance(v, kind) for v in (metrics.get("images") or {}).get(name, [])):
            return f"damaged ({name} of images)"
    return ""

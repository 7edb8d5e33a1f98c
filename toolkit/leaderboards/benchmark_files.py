"""Files beside the runs of a benchmark: display settings, and the pooled metrics of its folds.

runs/<benchmark>/   benchmark.json  pooled_metrics.json  <method>/<run>/
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.data.types import Dataset, file_sha256
from toolkit.errors import RunError, ToolkitError
from toolkit.files import OutputError
from toolkit.metrics.values import MetricError, to_json
from toolkit.runs.evaluate import dataset_of, evaluate
from toolkit.runs.run import Run
from toolkit.verification.checksums import read_sealed, write_sealed

BENCHMARK_FILE = "benchmark.json"
POOLED_FILE = "pooled_metrics.json"
SCHEMA = 1


@dataclass(frozen=True)
class Display:
    """What the leaderboard displays of an entry; no metric depends on it.

    Attributes:
        columns: names of the columns, in their order; empty for the default ones.
        published: `value`, `source` and `column` of a published result.
    """

    columns: tuple[str, ...] = ()
    published: Mapping[str, Any] | None = None


def write_display(folder: Path, entries: Mapping[str, Display]) -> None:
    """Store the display settings of a benchmark's entries; those of other entries are kept.

    Raises:
        OutputError: the file cannot be written.
    """
    file = folder / BENCHMARK_FILE
    kept: Mapping[str, Any] = {}
    with contextlib.suppress(ToolkitError):  # missing or damaged: written again
        kept = _stored(file)
    given = {
        name: {"columns": list(one.columns), "published": one.published}
        for name, one in entries.items()
    }
    write_sealed(file, {"schema": SCHEMA, "entries": {**kept, **given}})


def read_display(folder: Path) -> dict[str, Display]:
    """Return the display settings by entry; empty where no benchmark stored any.

    Raises:
        RunError: the file is damaged.
    """
    file = folder / BENCHMARK_FILE
    if not file.is_file():
        return {}
    found = {}
    for name, one in _stored(file).items():
        columns = one.get("columns") if isinstance(one, Mapping) else None
        published = one.get("published") if isinstance(one, Mapping) else None
        value = published.get("value") if isinstance(published, Mapping) else 0
        if (
            not isinstance(columns, list)
            or not isinstance(published, Mapping | None)
            or not (isinstance(value, int | float) and math.isfinite(value))
        ):
            raise _damaged(file)
        found[name] = Display(tuple(map(str, columns)), published)
    return found


def benchmark_folder(run: Run) -> Path:
    """Return the folder of the benchmark that a run belongs to."""
    return run.path.parent.parent


class PooledMetrics:
    """Pooled metrics of folds, stored beside the runs so that a leaderboard needs no data.

    A stored entry is valid as long as `metrics.json` of its runs is unchanged; else it is computed
    again from the stored predictions and the data set.

    Args:
        dataset: the data of the runs, where it is read already.
    """

    def __init__(self, dataset: Dataset | None = None) -> None:
        self._files: dict[Path, dict[str, Any]] = {}
        self._datasets = {} if dataset is None else {str(dataset.root.resolve()): dataset}

    def of(self, runs: Sequence[Run], part: Literal["test", "val"] = "test") -> dict[str, Any]:
        """Return the metrics of the folds of one entry.

        Args:
            runs: the folds.
            part: the part of the data to score, see `evaluate`.

        Raises:
            RunError: they have to be computed, and predictions are damaged.
            DataError: they have to be computed, and the data is not there.
        """
        file = benchmark_folder(runs[0]) / POOLED_FILE
        if file not in self._files:
            self._files[file] = _pooled(file)
        entries = self._files[file]
        paths = [os.path.relpath(run.path, file.parent) for run in runs]
        name = " ".join(paths if part == "test" else [part, *paths])
        hashes = [file_sha256(run.path / "metrics.json") for run in runs]
        key = hashlib.sha256("".join(hashes).encode()).hexdigest()
        found = entries.get(name)
        if isinstance(found, Mapping) and found.get("key") == key:
            metrics: dict[str, Any] = found["metrics"]
            return metrics
        try:
            metrics = evaluate(runs, self._dataset(runs[0]), part=part)
        except ToolkitError as error:
            if found is None:
                raise
            raise RunError(
                f"{file}: out of date, since a metrics.json of {runs[0].path.parent} has changed, "
                f"and cannot be computed again: {error}"
            ) from error
        entries[name] = {"key": key, "metrics": metrics}
        with contextlib.suppress(OutputError):  # a read-only folder costs the next call its time
            write_sealed(file, {"schema": SCHEMA, "entries": entries})
        return metrics

    def _dataset(self, run: Run) -> Dataset:
        root = run.record["data"]["root"]
        if root not in self._datasets:
            self._datasets[root] = dataset_of(run)
        return self._datasets[root]


def _pooled(file: Path) -> dict[str, Any]:
    """Return the whole entries of a file of pooled metrics; none where it is damaged."""
    try:
        entries = to_json(_stored(file))
    except (ToolkitError, MetricError):
        return {}
    return {
        name: one
        for name, one in entries.items()
        if isinstance(one, dict) and isinstance(one.get("metrics"), dict)
    }


def _stored(file: Path) -> Mapping[str, Any]:
    content = read_sealed(file, fix="repeat the benchmark to write it")
    entries = content.get("entries") if isinstance(content, Mapping) else None
    if not isinstance(entries, Mapping) or content.get("schema") != SCHEMA:
        raise _damaged(file)
    return entries


def _damaged(file: Path) -> RunError:
    return RunError(f"{file}: damaged, or of another version; repeat the benchmark to write it")

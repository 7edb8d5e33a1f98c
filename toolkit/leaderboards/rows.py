"""From the runs of one entry to its row: folds are pooled, seeds are averaged."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.errors import RunError
from toolkit.leaderboards.benchmark_files import Display, PooledMetrics
from toolkit.leaderboards.columns import KNOWN, TEXTS, column, value_at
from toolkit.leaderboards.model import Part, Row
from toolkit.metrics.values import MetricError, Undefined, Value
from toolkit.runs.run import Run


@dataclass(frozen=True)
class EntryMetrics:
    """The runs of one entry and one seed, and their metrics.

    Attributes:
        runs: by fold.
        metrics: as in `metrics.json`; of several folds, those of the pooled predictions.
    """

    runs: tuple[Run, ...]
    metrics: Mapping[str, Any]


def group_folds(runs: Iterable[Run]) -> list[list[Run]]:
    """Put runs together that differ in the fold alone, sorted by fold."""
    entries: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        data, split = run.record["data"]["fingerprint"], run.record["split"]["hash"]
        entries[(*_identity(run), data, split, run.seed)].append(run)
    return [sorted(group, key=lambda r: r.record["split"]["fold"]) for group in entries.values()]


def entry_metrics(runs: Sequence[Run], pooled: PooledMetrics, part: Part = "test") -> EntryMetrics:
    """Return the metrics of the folds of one entry and one seed, on their test or validation parts.

    Raises:
        RunError: a fold was run twice, or a metric is damaged.
        ToolkitError: pooled metrics have to be computed, and the data is not there.
    """
    folds = [run.record["split"]["fold"] for run in runs]
    if len(set(folds)) < len(folds):
        twice = next(i for i, fold in enumerate(folds) if fold in folds[:i])
        raise RunError(
            f"{runs[twice].path}: fold {folds[twice]} of {entry_name(runs[0])} was run twice with "
            "equal settings; name one of the runs"
        )
    stored = part == "test" and len(runs) == 1
    metrics = runs[0].metrics() if stored else pooled.of(runs, part)
    return EntryMetrics(runs=tuple(runs), metrics=metrics)


def group_seeds(entries: Sequence[EntryMetrics], *, pooled: bool) -> list[tuple[EntryMetrics, ...]]:
    """Put the seeds of one entry together, or leave each by itself if not `pooled`."""
    groups: dict[tuple[Any, ...], list[EntryMetrics]] = defaultdict(list)
    for number, one in enumerate(entries):
        key = _identity(one.runs[0])
        groups[key if pooled else (*key, number)].append(one)
    return [tuple(sorted(group, key=lambda one: one.runs[0].seed)) for group in groups.values()]


def make_row(seeds: Sequence[EntryMetrics], columns: Iterable[str], display: Display) -> Row:
    """Return the row of one entry.

    Args:
        seeds: its metrics, seed by seed.
        columns: names of columns that are needed beside the known ones.
        display: settings of the benchmark.

    Raises:
        RunError: a metric is damaged.
    """
    first = seeds[0].runs[0]
    names = [*KNOWN, *(name for name in columns if name not in KNOWN and name not in TEXTS)]
    values, spread = {}, {}
    for name in dict.fromkeys(names):
        found = [_value(one, column(name).path) for one in seeds]
        known = [value for value in found if not isinstance(value, Undefined)]
        missing = [value for value in found if isinstance(value, Undefined)]
        values[name] = missing[0] if missing else statistics.fmean(known)
        if len(known) > 1 and not missing:
            spread[name] = statistics.stdev(known)
    metadata, labels = first.metadata, first.metadata["labels"]
    report = _mapping(seeds[0].metrics, "report")
    retention = _mapping(report, "retention")
    # The metrics of one fold or seed are not those of a row that stands for several.
    alone = len(seeds) == len(seeds[0].runs) == 1
    return Row(
        entry=entry_name(first),
        method=first.method,
        seeds=tuple(one.runs[0].seed for one in seeds),
        values=values,
        spread=spread,
        intervals=_mapping(seeds[0].metrics, "intervals"),
        labels=f"{labels['train']} {labels['kind']}" if labels["kind"] != "none" else "0",
        weights=str(metadata.get("weights", "none")),
        weights_source=str(metadata.get("weights_source", "")),
        score_description=str(metadata.get("score_description", "")),
        runs=tuple(run.path for one in seeds for run in one.runs),
        published=display.published,
        prompted=_mapping(report, "prompted") if alone else {},
        prompts_source=str(metadata.get("prompts_source", "")),
        # Without images of old classes there is only the reason.
        retention=retention if "map50_change" in retention else {},
    )


def entry_name(run: Run) -> str:
    """Return the name of the row that a run belongs to."""
    return str(run.metadata.get("entry", run.method))


def _value(one: EntryMetrics, path: str) -> Value:
    try:
        return value_at(one.metrics, path)
    except MetricError as error:
        place = one.runs[0].path
        raise RunError(
            f"{place}/metrics.json: damaged ({path}: {error}); write it again with: "
            f"toolkit evaluate {place}"
        ) from error


def _mapping(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = tree.get(key)
    return found if isinstance(found, Mapping) else {}


def _identity(run: Run) -> tuple[str, str, str]:
    # Settings of a new run and of one read from disk differ in the order of their keys.
    return run.method, entry_name(run), json.dumps(run.record["settings"], sort_keys=True)

"""From the runs of one entry to its row: folds are pooled, seeds are averaged."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.layouts import read_dataset
from toolkit.data.types import Dataset
from toolkit.errors import RunError
from toolkit.leaderboard.columns import KNOWN, TEXTS, column, mean_tree, value_at
from toolkit.leaderboard.model import Row
from toolkit.metrics.values import MetricError, Undefined, Value, to_json
from toolkit.runs.costs import costs
from toolkit.runs.evaluate import evaluate
from toolkit.runs.run import Run


@dataclass(frozen=True)
class Scored:
    """The runs of one entry and one seed, and their figures.

    Attributes:
        runs: by fold.
        metrics: as `metrics.json` has them; of several folds, those of the pooled predictions, and
            under `report` the mean over the folds.
    """

    runs: tuple[Run, ...]
    metrics: Mapping[str, Any]


def by_entry(runs: Iterable[Run]) -> list[list[Run]]:
    """Put the folds of one entry together: equal but for the fold."""
    entries: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        data, split = run.record["data"]["fingerprint"], run.record["split"]["hash"]
        entries[(*_identity(run), data, split, run.seed)].append(run)
    return [sorted(group, key=lambda r: r.record["split"]["fold"]) for group in entries.values()]


def scored(runs: Sequence[Run], datasets: dict[str, Dataset]) -> Scored:
    """Return the figures of one entry and one seed.

    Args:
        runs: its folds.
        datasets: read so far, by their root; those that are needed are added.

    Raises:
        RunError: a fold was run twice, or a figure is damaged.
        ToolkitError: the data that pooling needs is not there.
    """
    metrics = runs[0].metrics() if len(runs) == 1 else _pooled(runs, datasets)
    # Runs of an earlier version have the cost in `run.json` alone.
    speed = {**to_json(costs(runs)), **_mapping(metrics, "speed")}
    return Scored(runs=tuple(runs), metrics={**metrics, "speed": speed})


def by_seed(entries: Sequence[Scored], *, pooled: bool) -> list[list[Scored]]:
    """Put the seeds of one entry together (each by itself where they are not to be pooled)."""
    groups: dict[tuple[Any, ...], list[Scored]] = defaultdict(list)
    for number, one in enumerate(entries):
        key = _identity(one.runs[0])
        groups[key if pooled else (*key, number)].append(one)
    return [sorted(group, key=lambda one: one.runs[0].seed) for group in groups.values()]


def row(seeds: Sequence[Scored], columns: Iterable[str]) -> Row:
    """Return the row of one entry.

    Args:
        seeds: its figures, seed by seed.
        columns: names of columns that are wanted beside the known ones.

    Raises:
        RunError: a figure is damaged.
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
    facts = first.metadata
    labels = facts["labels"]
    told = f"{labels['train']} {labels['kind']}" if labels["kind"] != "none" else "0"
    ms, fit = values["ms"], values["fit"]
    metrics = seeds[0].metrics
    return Row(
        entry=_entry(first),
        method=first.method,
        seed=first.seed,
        values=values,
        intervals=_mapping(metrics, "intervals"),
        labels=told,
        weights=str(facts.get("weights", "none")),
        weights_source=str(facts.get("weights_source", "")),
        scoring=str(facts.get("score_description", "")),
        fit_seconds=0.0 if isinstance(fit, Undefined) else fit,
        ms_per_image=None if isinstance(ms, Undefined) else ms,
        prompted=_prompted([run for one in seeds for run in one.runs]),
        runs=tuple(run.path for one in seeds for run in one.runs),
        seeds=tuple(one.runs[0].seed for one in seeds),
        spread=spread,
        published=_published(first),
        # Runs without text prompts, and those of an earlier version, have no such fact.
        prompts_source=str(facts.get("prompts_source", "")),
        forgetting=_forgetting(metrics),
    )


def _prompted(runs: Sequence[Run]) -> Mapping[str, Any]:
    # The figures of one fold or seed are not those of a row that stands for several.
    alone = len(runs) == 1
    return _mapping(_mapping(runs[0].metrics(), "report"), "prompted") if alone else {}


def _forgetting(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    # Other methods report none, and where nothing could be compared only the reason is there.
    found = _mapping(_mapping(metrics, "report"), "forgetting")
    return found if "map50_change" in found else {}


def _value(one: Scored, path: str) -> Value:
    try:
        return value_at(one.metrics, path)
    except MetricError as error:
        place = one.runs[0].path
        raise RunError(
            f"{place}/metrics.json: damaged ({path}: {error}); mend it with: toolkit evaluate "
            f"{place}"
        ) from error


def _pooled(runs: Sequence[Run], datasets: dict[str, Dataset]) -> dict[str, Any]:
    folds = [run.record["split"]["fold"] for run in runs]
    if len(set(folds)) < len(folds):
        twice = next(i for i, fold in enumerate(folds) if fold in folds[:i])
        raise RunError(
            f"{runs[twice].path}: fold {folds[twice]} of {_entry(runs[0])} was run twice with "
            "equal settings; name one of the runs"
        )
    data = runs[0].record["data"]
    if data["root"] not in datasets:
        datasets[data["root"]] = read_dataset(data["root"], layout=data["layout"])
    metrics = evaluate(runs, datasets[data["root"]])
    reports = [_mapping(run.metrics(), "report") for run in runs]
    return {**metrics, "report": mean_tree(reports)}


def _mapping(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = tree.get(key)
    return found if isinstance(found, Mapping) else {}


def _published(run: Run) -> Mapping[str, Any] | None:
    found = run.metadata.get("published")
    return found if isinstance(found, Mapping) and "value" in found else None


def _entry(run: Run) -> str:
    return str(run.metadata.get("entry", run.method))


def _identity(run: Run) -> tuple[str, str, str]:
    # Settings of a new run and of one read from disk differ in the order of their keys.
    return run.method, _entry(run), json.dumps(run.record["settings"], sort_keys=True)

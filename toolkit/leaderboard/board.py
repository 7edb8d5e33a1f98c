"""Runs to rows: which runs may stand in one table, and what each row says."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.data.layouts import read_dataset
from toolkit.data.types import Dataset
from toolkit.errors import RunError, ToolkitError
from toolkit.metrics.values import Undefined, Value, value_from_json
from toolkit.runs.evaluate import evaluate
from toolkit.runs.run import Run, find_runs

NOT_GIVEN = Undefined("the method does not give it")


@dataclass(frozen=True)
class Row:
    """One entry of the leaderboard: one method with one config, its folds pooled.

    Attributes:
        entry: name of the row.
        method: name of the method.
        seed: of its random numbers.
        values: the figures by column name.
        intervals: 95 % bootstrap intervals of image-level figures, by name.
        labels: what it was told of defects, in words.
        weights: the pretrained weights it started from.
        weights_source: where they came from.
        scoring: where its image-level score comes from.
        fit_seconds: time to fit, summed over the folds.
        ms_per_image: median time from file to prediction.
        prompted: IoU under true prompts, zero-shot and fine-tuned, where the method reports it.
        runs: the run directories.
    """

    entry: str
    method: str
    seed: int
    values: Mapping[str, Value]
    intervals: Mapping[str, Any]
    labels: str
    weights: str
    weights_source: str
    scoring: str
    fit_seconds: float
    ms_per_image: float | None
    prompted: Mapping[str, Any]
    runs: tuple[Path, ...]


@dataclass(frozen=True)
class Group:
    """Rows that may be compared: the same data, split and folds.

    Attributes:
        data: name of the data set.
        protocol: how it was split.
        split_hash: of the split file.
        fingerprint: of the data, masks included.
        folds: the folds that were tested.
        test_images: number of images in the pooled test parts.
        test_defects: how many of them are defective.
        hardware: of the first run.
        rows: best image AUROC first.
    """

    data: str
    protocol: str
    split_hash: str
    fingerprint: str
    folds: tuple[int, ...]
    test_images: int
    test_defects: int
    hardware: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Board:
    """All groups, and the runs that could not be shown."""

    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = field(default=())


COLUMNS = {
    "auroc": ("image", "auroc"),
    "ap": ("image", "average_precision"),
    "f1": ("image", "decisions", "f1"),
    "accuracy": ("image", "decisions", "accuracy"),
    "map50": ("boxes", "map50"),
    "mask_iou": ("masks", "iou"),
    "pixel_auroc": ("pixel", "auroc"),
    "aupro": ("pixel", "aupro", "0.3"),
}


def collect(places: Sequence[Path]) -> list[Run]:
    """Open all finished runs at or below the given places.

    Raises:
        RunError: there is none, or no such folder.
    """
    for place in places:
        if not place.exists():
            raise RunError(f"{place}: no such folder; make runs with: toolkit benchmark CONFIG")
    runs = [Run.open(path) for path in find_runs(list(places))]
    finished = [run for run in runs if run.finished]
    if not finished:
        where = ", ".join(map(str, places))
        raise RunError(f"{where}: no finished run; make one with: toolkit benchmark CONFIG")
    return finished


def build_board(runs: Iterable[Run]) -> Board:
    """Group comparable runs, pool the folds of each entry, and sort by image AUROC.

    A run that cannot be read is left out and named.
    """
    comparable: dict[tuple[str, str, tuple[int, ...]], list[list[Run]]] = defaultdict(list)
    for entry_runs in _by_entry(runs):
        first = entry_runs[0].record
        folds = tuple(sorted(run.record["split"]["fold"] for run in entry_runs))
        comparable[first["data"]["fingerprint"], first["split"]["hash"], folds].append(entry_runs)
    groups, left_out = [], []
    datasets: dict[str, Dataset] = {}
    for (_, _, folds), entries in sorted(comparable.items(), key=lambda item: item[0]):
        rows, shown = [], []
        for entry_runs in entries:
            try:
                rows.append(_row(entry_runs, datasets))
                shown.append(entry_runs)
            except ToolkitError as error:
                left_out.append(str(error))
        if rows:
            groups.append(_group(shown[0], folds, rows))
    return Board(groups=tuple(groups), left_out=tuple(left_out))


def _by_entry(runs: Iterable[Run]) -> list[list[Run]]:
    entries: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        record = run.record
        name = run.facts.get("entry", run.method)
        # Settings of a new run and of one read from disk differ in the order of their keys.
        settings = json.dumps(record["settings"], sort_keys=True)
        data, split = record["data"]["fingerprint"], record["split"]["hash"]
        key = (run.method, name, data, split, record["seed"], settings)
        entries[key].append(run)
    return [sorted(group, key=lambda r: r.record["split"]["fold"]) for group in entries.values()]


def _row(runs: Sequence[Run], datasets: dict[str, Dataset]) -> Row:
    for run in runs:
        _check_whole(run)
    metrics = runs[0].metrics() if len(runs) == 1 else _pooled(runs, datasets)
    facts = runs[0].facts
    labels = facts["labels"]
    told = f"{labels['train']} {labels['kind']}" if labels["kind"] != "none" else "0"
    return Row(
        entry=facts.get("entry", runs[0].method),
        method=runs[0].method,
        seed=runs[0].seed,
        values={name: _value(metrics, path) for name, path in COLUMNS.items()},
        intervals=metrics.get("intervals", {}),
        labels=told,
        weights=str(facts.get("weights", "none")),
        weights_source=str(facts.get("weights_source", "")),
        scoring=str(facts.get("scoring", "")),
        fit_seconds=sum(run.facts.get("fit_seconds", 0.0) for run in runs),
        ms_per_image=metrics.get("speed", {}).get("ms_per_image_median"),
        prompted=runs[0].metrics().get("report", {}).get("prompted", {}),
        runs=tuple(run.path for run in runs),
    )


def _check_whole(run: Run) -> None:
    stored = run.metrics()
    image = stored.get("image") if isinstance(stored, Mapping) else None
    if not isinstance(image, Mapping) or "n_defect" not in image:
        raise RunError(
            f"{run.path}/metrics.json: damaged; mend it with: toolkit evaluate {run.path}"
        )
    if "labels" not in run.facts:
        raise RunError(f"{run.path}/run.json: damaged (no labels); make the run again")


def _pooled(runs: Sequence[Run], datasets: dict[str, Dataset]) -> dict[str, Any]:
    folds = [run.record["split"]["fold"] for run in runs]
    if len(set(folds)) < len(folds):
        raise RunError(
            f"{runs[-1].path}: fold {folds[-1]} of {runs[0].facts.get('entry')} was run twice with "
            "equal settings; name one of the runs"
        )
    data = runs[0].record["data"]
    if data["root"] not in datasets:
        datasets[data["root"]] = read_dataset(data["root"], layout=data["layout"])
    return evaluate(runs, datasets[data["root"]])


def _value(metrics: Mapping[str, Any], path: Sequence[str]) -> Value:
    found: Any = metrics
    for key in path:
        if not isinstance(found, Mapping):
            return NOT_GIVEN
        if found.get("reason"):
            return value_from_json(found)
        found = found.get(key)
    return NOT_GIVEN if found is None else value_from_json(found)


def _group(runs: Sequence[Run], folds: tuple[int, ...], rows: list[Row]) -> Group:
    record = runs[0].record
    tested = [name for run in runs for name in run.record["split"]["test"]]
    machine = record["environment"]
    return Group(
        data=record["data"]["name"],
        protocol=record["split"]["protocol"],
        split_hash=record["split"]["hash"],
        fingerprint=record["data"]["fingerprint"],
        folds=folds,
        test_images=len(tested),
        test_defects=sum(run.metrics()["image"]["n_defect"] for run in runs),
        hardware=f"{machine['processor']}, {machine['cores']} cores, {record['device']}",
        rows=tuple(sorted(rows, key=_rank)),
    )


def _rank(row: Row) -> tuple[float, str]:
    value = row.values["auroc"]
    return (-value if isinstance(value, float) else 1.0, row.entry)

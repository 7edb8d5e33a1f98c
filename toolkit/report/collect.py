"""What a report shows, as plain values: the rows of the leaderboard beside what was predicted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.layouts import read_dataset
from toolkit.errors import RunError, ToolkitError
from toolkit.leaderboard.board import Group, Row, build_board
from toolkit.metrics.curve import checked_scores
from toolkit.runs.evaluate import SCHEMA as METRICS_SCHEMA
from toolkit.runs.evaluate import Judged, judged
from toolkit.runs.run import Run, find_runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.types import Dataset, Sample
    from toolkit.runs.prediction import Prediction

_NEEDED = {
    "data": ("name", "root", "layout", "fingerprint"),
    "split": ("hash", "protocol", "fold", "test", "val"),
    "environment": ("processor", "cores"),
}


@dataclass(frozen=True)
class Shown:
    """One row of the leaderboard and what its runs said of each test image.

    Attributes:
        name: of the row; no two of a group share it.
        row: its figures.
        parts: the test part of each run (one per fold), beside the truth.
        thresholds: the image-level threshold of each run; None where it has none.
    """

    name: str
    row: Row
    parts: tuple[Judged, ...]
    thresholds: tuple[float | None, ...]

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The test images of all folds."""
        return tuple(s for part in self.parts for s in part.samples)

    @cached_property
    def predictions(self) -> tuple[Prediction, ...]:
        """What was said of each of `samples`, without masks and score maps."""
        return tuple(p for part in self.parts for p in part.light)

    @cached_property
    def folds(self) -> tuple[int, ...]:
        """For each of `samples` the index into `parts`."""
        return tuple(i for i, part in enumerate(self.parts) for _ in part.samples)

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Raw image-level scores of `samples`, float64 (n,)."""
        return checked_scores([p.score for p in self.predictions])

    @cached_property
    def is_defect(self) -> NDArray[np.bool_]:
        """Truth of `samples`, bool (n,)."""
        return np.array([s.is_defect for s in self.samples], np.bool_)

    @cached_property
    def flagged(self) -> tuple[bool | None, ...]:
        """Whether each of `samples` reaches its fold's threshold; None where there is none."""
        limits = [self.thresholds[fold] for fold in self.folds]
        return tuple(
            None if limit is None else bool(score >= limit)
            for score, limit in zip(self.scores, limits, strict=True)
        )


@dataclass(frozen=True)
class ShownGroup:
    """Rows that may be compared, see `toolkit.leaderboard.board.Group`.

    Attributes:
        facts: data, split, folds and hardware; its own `rows` are those of `methods`.
        methods: in the order of the leaderboard.
    """

    facts: Group
    methods: tuple[Shown, ...]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The test images, sorted by id; every method predicted each of them."""
        return tuple(sorted(self.methods[0].samples, key=lambda s: s.id))

    def without(self, broken: Mapping[str, str]) -> ShownGroup:
        """Return the group without the methods of these names."""
        methods = tuple(m for m in self.methods if m.name not in broken)
        return ShownGroup(replace(self.facts, rows=tuple(m.row for m in methods)), methods)


@dataclass(frozen=True)
class Collected:
    """What can be shown, and what cannot.

    Attributes:
        groups: as on the leaderboard.
        left_out: one line for each run that cannot be shown.
        roots: where the data of the runs lies on this machine, and the name of that data.
    """

    groups: tuple[ShownGroup, ...]
    left_out: tuple[str, ...]
    roots: Mapping[str, str]


def collect_report(places: Sequence[Path], *, data: Path | None = None) -> Collected:
    """Read the finished runs at or below the given places, and what they predicted.

    A run that cannot be shown is left out and named; the others are kept.

    Args:
        places: runs, or folders of runs.
        data: where the data lies now, if it was moved since the runs were made.

    Raises:
        RunError: a place does not exist, or there is no run at all.
        DataError: there is no data set at `data`.
    """
    runs, left_out = _open_runs(places)
    if data is not None:
        _move(runs, read_dataset(data))
    board = build_board(runs)
    left_out += board.left_out
    roots = {str(run.record["data"]["root"]): str(run.record["data"]["name"]) for run in runs}
    by_path = {run.path: run for run in runs}
    datasets: dict[tuple[str, str], Dataset] = {}
    groups = []
    for group in board.groups:
        methods: list[Shown] = []
        for name, row in zip(_names(group.rows), group.rows, strict=True):
            try:
                shown = _shown(name, row, [by_path[path] for path in row.runs], datasets)
                if methods and {s.id for s in shown.samples} != {s.id for s in methods[0].samples}:
                    raise RunError(f"{row.runs[0]}: predicts other images than its split says")
                methods.append(shown)
            except ToolkitError as error:
                left_out.append(str(error))
        if methods:
            kept = replace(group, rows=tuple(m.row for m in methods))
            groups.append(ShownGroup(kept, tuple(methods)))
    return Collected(tuple(groups), tuple(dict.fromkeys(left_out)), roots)


def _open_runs(places: Sequence[Path]) -> tuple[list[Run], list[str]]:
    for place in places:
        if not place.exists():
            raise RunError(f"{place}: no such folder; make runs with: toolkit benchmark CONFIG")
    paths = find_runs(list(places))
    if not paths:
        where = ", ".join(map(str, places))
        raise RunError(f"{where}: no run there; make one with: toolkit benchmark CONFIG")
    runs, left_out = [], []
    for path in paths:
        try:
            runs.append(_whole(Run.open(path)))
        except ToolkitError as error:
            left_out.append(str(error))
    return runs, left_out


def _whole(run: Run) -> Run:
    """Insist on what the leaderboard and the report read of a run."""
    for part, keys in _NEEDED.items():
        record = run.record.get(part)
        missing = [key for key in keys if not isinstance(record, dict) or key not in record]
        if missing:
            raise RunError(f"{run.path}/run.json: damaged (no {part}.{missing[0]}); run again")
    metrics: Any = run.metrics()
    mend = f"mend it with: toolkit evaluate {run.path}"
    if not isinstance(metrics, dict) or metrics.get("schema") != METRICS_SCHEMA:
        raise RunError(f"{run.path}/metrics.json: schema is not {METRICS_SCHEMA}; {mend}")
    thresholds = metrics.get("thresholds")
    if not isinstance(thresholds, list) or len(thresholds) != 1 or not _is_limit(thresholds[0]):
        raise RunError(f"{run.path}/metrics.json: damaged (thresholds); {mend}")
    return run


def _is_limit(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and math.isfinite(value))  # type: ignore[arg-type]


def _move(runs: Iterable[Run], dataset: Dataset) -> None:
    """Let the runs that were made on this data find it; nothing is written."""
    for run in runs:
        if run.record["data"]["fingerprint"] == dataset.fingerprint:
            run.record["data"].update(root=str(dataset.root), layout=dataset.layout)


def _names(rows: Sequence[Row]) -> list[str]:
    """Name the rows; where several share a name, say what tells them apart."""
    entries = [row.entry for row in rows]
    seeded = [(row.entry, row.seed) for row in rows]
    names = []
    for row in rows:
        if entries.count(row.entry) == 1:
            names.append(row.entry)
        elif seeded.count((row.entry, row.seed)) == 1:
            names.append(f"{row.entry}, seed {row.seed}")
        else:
            names.append(f"{row.entry}, {row.method}/{row.runs[0].name}")
    # Runs of one name in two folders are still told apart.
    return [n if names.count(n) == 1 else f"{n} ({names[:i].count(n) + 1})" for i, n in
            enumerate(names)]  # fmt: skip


def _shown(
    name: str, row: Row, runs: Sequence[Run], datasets: dict[tuple[str, str], Dataset]
) -> Shown:
    # A row may stand for several seeds; pictures and curves are of the first.
    runs = [run for run in runs if run.seed == row.seed]
    parts = []
    for run in runs:
        place = run.record["data"]["root"], run.record["data"]["layout"]
        if place not in datasets:
            datasets[place] = read_dataset(place[0], layout=place[1])
        parts.append(judged(run, datasets[place], "test"))
    thresholds = tuple(run.metrics()["thresholds"][0] for run in runs)
    shown = Shown(name=name, row=row, parts=tuple(parts), thresholds=thresholds)
    if not shown.samples:
        raise RunError(f"{runs[0].path}: its test part is empty; choose another split")
    for part in shown.parts:
        bad = [p.sample_id for p in part.light if not math.isfinite(p.score)]
        if bad:
            raise RunError(f"{part.run.path}: the score of {bad[0]} is no finite number; run again")
    return shown

"""What a report shows, as plain values: the rows of the leaderboard beside what was predicted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.layouts import read_dataset
from toolkit.errors import RunError, ToolkitError
from toolkit.leaderboard.board import leaderboard
from toolkit.leaderboard.collect import collect
from toolkit.leaderboard.differences import rank_rows
from toolkit.leaderboard.model import Group, Row
from toolkit.metrics.roc import checked_scores
from toolkit.runs.run import Run
from toolkit.runs.scored_predictions import ScoredPredictions, load_scored_predictions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.types import Dataset, Sample
    from toolkit.prediction import Prediction


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
    parts: tuple[ScoredPredictions, ...]
    thresholds: tuple[float | None, ...]

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The test images of all folds."""
        return tuple(s for part in self.parts for s in part.samples)

    @cached_property
    def predictions(self) -> tuple[Prediction, ...]:
        """What was said of each of `samples`, without masks and anomaly maps."""
        return tuple(p for part in self.parts for p in part.predictions)

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
        metadata: data, split, folds and hardware; its own `rows` are those of `methods`.
        methods: in the order of the leaderboard.
    """

    metadata: Group
    methods: tuple[Shown, ...]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The test images, sorted by id; every method predicted each of them."""
        return tuple(sorted(self.methods[0].samples, key=lambda s: s.id))

    def without(self, broken: Mapping[str, str]) -> ShownGroup:
        """Return the group without the methods of these names."""
        return _group(
            self.metadata, {i: m for i, m in enumerate(self.methods) if m.name not in broken}
        )


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
    found = collect(places)
    if data is not None:
        _move(found, read_dataset(data))
    board = leaderboard(found)
    left_out = list(board.left_out)
    by_path = {run.path: run for run in found}
    datasets: dict[tuple[str, str], Dataset] = {}
    groups = []
    for group in board.groups:
        methods: dict[int, Shown] = {}
        for place, name in enumerate(_told_apart(group.names)):
            row = group.rows[place]
            try:
                shown = _shown(name, row, [by_path[path] for path in row.runs], datasets)
                for other in methods.values():
                    _check_same_images(shown, other)
                methods[place] = shown
            except ToolkitError as error:
                left_out.append(str(error))
        if methods:
            groups.append(_group(group, methods))
    roots = {str(run.record["data"]["root"]): str(run.record["data"]["name"]) for run in found}
    return Collected(tuple(groups), tuple(dict.fromkeys(left_out)), roots)


def _threshold(run: Run) -> float | None:
    stored = run.metrics().get("thresholds")
    if isinstance(stored, list) and len(stored) == 1:
        (limit,) = stored
        if limit is None:
            return None
        if isinstance(limit, int | float) and math.isfinite(limit):
            return float(limit)
    raise RunError(
        f"{run.path}/metrics.json: damaged (thresholds); mend it with: toolkit evaluate {run.path}"
    )


def _check_same_images(one: Shown, other: Shown) -> None:
    if {s.id for s in one.samples} != {s.id for s in other.samples}:
        raise RunError(f"{one.parts[0].run.path}: its test images are not those of its split")


def _move(runs: Iterable[Run], dataset: Dataset) -> None:
    """Let the runs that were made on this data find it; nothing is written."""
    for run in runs:
        if run.record["data"]["fingerprint"] == dataset.fingerprint:
            run.record["data"].update(root=str(dataset.root), layout=dataset.layout)


def _told_apart(names: Sequence[str]) -> list[str]:
    """Number names that are equal: runs of one name may lie in two folders."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[:i].count(name) + 1})"
        for i, name in enumerate(names)
    ]


def _group(metadata: Group, methods: Mapping[int, Shown]) -> ShownGroup:
    """Return a group of the methods at these places."""
    kept = _kept(metadata, list(methods))
    pairs = zip(methods.values(), kept.rows, strict=True)
    return ShownGroup(kept, tuple(replace(shown, row=row) for shown, row in pairs))


def _kept(group: Group, places: Sequence[int]) -> Group:
    """Return the group with the rows at these places alone, ranked among themselves."""
    if len(places) == len(group.rows):
        return group
    new = {old: place for place, old in enumerate(places)}
    differences = tuple(
        replace(one, first=new[one.first], second=new[one.second])
        for one in group.differences
        if one.first in new and one.second in new
    )
    rows = rank_rows([group.rows[old] for old in places], differences, group.sort)
    return replace(group, rows=rows, differences=differences)


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
        parts.append(load_scored_predictions(run, datasets[place], "test"))
    thresholds = tuple(_threshold(run) for run in runs)
    shown = Shown(name=name, row=row, parts=tuple(parts), thresholds=thresholds)
    if not shown.samples:
        raise RunError(f"{runs[0].path}: its test part is empty; choose another split")
    for part in shown.parts:
        bad = [p.sample_id for p in part.predictions if not math.isfinite(p.score)]
        if bad:
            raise RunError(f"{part.run.path}: the score of {bad[0]} is no finite number; run again")
    return shown

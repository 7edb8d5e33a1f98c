"""Runs to a board: which runs may stand in one table, in which order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from toolkit.data.types import Dataset
from toolkit.errors import ConfigError, ToolkitError, did_you_mean
from toolkit.leaderboard.collect import Collected, check_run, collect
from toolkit.leaderboard.columns import (
    COLUMNS,
    DEFAULT,
    NOT_GIVEN,
    TEXTS,
    check_names,
    column,
    expanded,
)
from toolkit.leaderboard.differences import differences, ranks
from toolkit.leaderboard.model import Board, Difference, Group, Reference, Row
from toolkit.leaderboard.rows import Scored, by_entry, by_seed, row, scored
from toolkit.metrics.values import Undefined
from toolkit.runs.run import Run

__all__ = [
    "COLUMNS",
    "NOT_GIVEN",
    "Board",
    "Difference",
    "Group",
    "Reference",
    "Row",
    "build_board",
    "collect",
]

SORT = "auroc"
SEEDS = ("pooled", "each")


def build_board(
    runs: Iterable[Run] | Collected,
    *,
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    seeds: str = "pooled",
    references: Sequence[Reference] = (),
    all_intervals: bool = False,
) -> Board:
    """Group comparable runs, pool the folds of each entry, average its seeds, and sort.

    A run that cannot be used is left out and named.

    Args:
        runs: finished runs; what `collect` left out is passed on.
        columns: names of columns, or dotted paths into `metrics.json`; if None those that the
            benchmark of the runs asked for, else the usual ones.
        sort: the column to sort and rank by; if None the first figure that the benchmark of the
            runs asked for, else the image AUROC.
        seeds: `pooled` (mean and standard deviation in one row) or `each` (a row for each).
        references: published figures, shown in groups of the same data.
        all_intervals: show every interval, and not only that of the column of the order.

    Raises:
        ConfigError: a column that no run has, or an unknown way to treat seeds.
    """
    if seeds not in SEEDS:
        raise ConfigError(f"--seeds {seeds}: unknown{did_you_mean(seeds, SEEDS)}")
    left_out = list(runs.left_out) if isinstance(runs, Collected) else []
    comparable: dict[tuple[str, str, tuple[int, ...]], list[Scored]] = defaultdict(list)
    datasets: dict[str, Dataset] = {}
    for entry_runs in by_entry(_whole(runs, left_out)):
        first = entry_runs[0].record
        folds = tuple(sorted(run.record["split"]["fold"] for run in entry_runs))
        try:
            one = scored(entry_runs, datasets)
            row([one], ())
        except ToolkitError as error:
            left_out.append(str(error))
        else:
            key = (first["data"]["fingerprint"], first["split"]["hash"], folds)
            comparable[key].append(one)
    everything = [one.metrics for entries in comparable.values() for one in entries]
    if everything:
        check_names(columns or (), everything, option="--columns")
        check_names([sort] if sort is not None else [], everything, option="--sort")
    if sort in TEXTS:
        raise ConfigError(f"--sort {sort}: holds words; choose a column of figures")
    groups = [
        _group(
            by_seed(entries, pooled=seeds == "pooled"),
            folds,
            columns=tuple(columns) if columns is not None else _asked_for(entries) or DEFAULT,
            sort=sort or _first_figure(_asked_for(entries)),
            references=references,
            all_intervals=all_intervals,
        )
        for (_, _, folds), entries in sorted(comparable.items(), key=lambda item: item[0])
    ]
    return Board(groups=tuple(groups), left_out=tuple(left_out))


def _whole(runs: Iterable[Run], left_out: list[str]) -> list[Run]:
    whole = []
    for run in runs:
        try:
            check_run(run)
        except ToolkitError as error:
            left_out.append(str(error))
        else:
            whole.append(run)
    return whole


def _asked_for(entries: Sequence[Scored]) -> tuple[str, ...]:
    """Return the columns that the benchmarks of the runs asked for, in their order."""
    asked: dict[str, None] = {}
    for one in entries:
        for run in one.runs:
            found: Any = run.metadata.get("columns") or ()
            asked.update((str(name), None) for name in found if isinstance(name, str))
    return tuple(asked)


def _first_figure(columns: Sequence[str]) -> str:
    return next((name for name in columns if name not in TEXTS), SORT)


def _group(
    entries: Sequence[Sequence[Scored]],
    folds: tuple[int, ...],
    *,
    columns: tuple[str, ...],
    sort: str,
    references: Sequence[Reference],
    all_intervals: bool,
) -> Group:
    columns = expanded(columns, [one.metrics for seeds in entries for one in seeds])
    wanted = dict.fromkeys([*columns, sort])
    rows = [row(seeds, wanted) for seeds in entries]
    order = sorted(range(len(rows)), key=lambda i: _place(rows[i], sort))
    found = differences([entries[i] for i in order], sort)
    placed = ranks(len(order), found, sort)
    runs = entries[0][0].runs
    record = runs[0].record
    tested = [name for run in runs for name in run.record["split"]["test"]]
    machine = record.get("environment", {})
    data = record["data"]["name"]
    return Group(
        data=data,
        protocol=record["split"]["protocol"],
        split_hash=record["split"]["hash"],
        fingerprint=record["data"]["fingerprint"],
        folds=folds,
        test_images=len(tested),
        test_defects=sum(run.metrics()["image"]["n_defect"] for run in runs),
        hardware=f"{machine.get('processor', 'unknown processor')}, "
        f"{machine.get('cores', '?')} cores, {record['device']}",
        rows=tuple(replace(rows[i], rank=rank) for i, rank in zip(order, placed, strict=True)),
        columns=columns,
        sort=sort,
        differences=found,
        references=tuple(one for one in references if data in one.covers),
        all_intervals=all_intervals,
    )


def _place(one: Row, sort: str) -> tuple[bool, float, str]:
    value = one.values[sort]
    if isinstance(value, Undefined):
        return True, 0.0, one.entry
    return False, value if column(sort).lower_is_better else -value, one.entry

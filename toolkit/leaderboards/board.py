"""The leaderboard: which runs may share a table, and in which order."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import ConfigError, ToolkitError, did_you_mean, printable
from toolkit.leaderboards import overview_render, render
from toolkit.leaderboards.benchmark_files import (
    Display,
    PooledMetrics,
    benchmark_folder,
    read_display,
)
from toolkit.leaderboards.collect import Collected, check_run, collect
from toolkit.leaderboards.columns import DEFAULT, TEXTS, check_names, column, expanded
from toolkit.leaderboards.differences import differences, rank_rows
from toolkit.leaderboards.model import Group, Part, Row
from toolkit.leaderboards.overview import Overview, Table, make_overviews
from toolkit.leaderboards.published import Reference, published_references
from toolkit.leaderboards.rows import (
    EntryMetrics,
    entry_metrics,
    entry_name,
    group_folds,
    group_seeds,
    make_row,
)
from toolkit.metrics.values import Undefined
from toolkit.runs.run import Run

SORT = "auroc"
SEEDS = ("pooled", "each")
PARTS = ("test", "val")
FORMATS: Mapping[str, Callable[[Sequence[Group], Sequence[str]], str]] = {
    "table": render.table,
    "markdown": render.markdown,
    "csv": render.csv,
    "json": render.json,
    "html": render.html,
}


@dataclass(frozen=True)
class Board:
    """Tables of runs that may be compared, and the runs that are in none.

    Attributes:
        groups: one table each.
        left_out: one line for each run that cannot be used.
        overviews: tables of one row per method and one column per category, where the same
            methods ran on several data sets.
        by_category: display each group by itself, and no overview.
    """

    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = ()
    overviews: tuple[Overview, ...] = ()
    by_category: bool = False

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all groups."""
        return tuple(row for group in self.groups for row in group.rows)

    def __str__(self) -> str:
        return self.render("table")

    def render(self, form: str) -> str:
        """Return the leaderboard as `table`, `markdown`, `csv`, `json` or `html`.

        Raises:
            ConfigError: another format.
        """
        check_format(form)
        if form == "json":
            return json.dumps(self.to_dict(), indent=2, allow_nan=False)
        if self.by_category or not self.overviews:
            return FORMATS[form](self.groups, self.left_out)
        return overview_render.FORMATS[form](self.overviews, self._others(), self.left_out)

    def to_markdown(self) -> str:
        """Return the leaderboard in Markdown."""
        return self.render("markdown")

    def to_short_markdown(self) -> str:
        """Return the leaderboard in Markdown, without notes and legend."""
        if self.by_category or not self.overviews:
            return render.short_markdown(self.groups)
        return overview_render.short_markdown(self.overviews, self._others())

    def _others(self) -> list[Group]:
        """Return the groups that are in no overview."""
        covered = {id(group) for one in self.overviews for group in one.groups}
        return [group for group in self.groups if id(group) not in covered]

    def to_dict(self) -> dict[str, Any]:
        """Return the leaderboard as JSON values."""
        content = render.as_dict(self.groups, self.left_out)
        if self.overviews:
            content["overviews"] = [overview_render.as_dict(one) for one in self.overviews]
        return content


def check_format(form: str) -> None:
    """Check the name of a format, before anything is computed.

    Raises:
        ConfigError: it is unknown.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: unknown{did_you_mean(form, FORMATS)}")


def leaderboard(
    runs: Run | Path | str | Iterable[Run | Path | str] | Collected = "runs",
    *,
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    seeds: str = "pooled",
    published: bool = False,
    all_intervals: bool = False,
    by_category: bool = False,
    part: str = "test",
) -> Board:
    """Compare finished runs: pool the folds of each entry, average its seeds, sort and rank.

    Only files of the runs are read, not the data set, except where metrics of several folds or of
    validation parts are not stored yet. A run that cannot be used is left out and named.

    Example:
        >>> board = leaderboard("runs/bottle", sort="aupro")  # doctest: +SKIP
        >>> print(board)  # doctest: +SKIP
        >>> best = board.groups[0].rows[0]  # doctest: +SKIP
        >>> best.entry, best.values["aupro"]  # doctest: +SKIP
        ('patchcore', 0.962)

    Args:
        runs: runs, run directories, or folders of runs.
        columns: names of columns, or dotted paths into `metrics.json`; if None those of the
            benchmark, else the default ones.
        sort: the column to sort and rank by; if None the first numeric column of the benchmark,
            else the image AUROC.
        seeds: `pooled` (mean and standard deviation in one row) or `each` (a row for each).
        published: add rows of published results on the same data.
        all_intervals: display every interval, and not only that of the column of the order.
        by_category: where methods ran on several data sets, display the table of each, and not one
            table with a column for each.
        part: `val` compares on the validation parts, by which settings are chosen without a look at
            the test parts.

    Raises:
        RunError: a place does not exist or holds no run.
        ConfigError: a column that no run has, or an unknown value of `seeds` or `part`.
    """
    if seeds not in SEEDS:
        raise ConfigError(f"--seeds {seeds}: unknown{did_you_mean(seeds, SEEDS)}")
    if part not in PARTS:
        raise ConfigError(f"--part {part}: unknown{did_you_mean(part, PARTS)}")
    if sort in TEXTS:
        raise ConfigError(f"--sort {sort}: holds words; choose a numeric column")
    collected = _collected(runs)
    left_out = list(collected.left_out)
    valid = []
    for run in collected:
        try:
            check_run(run)
        except ToolkitError as error:
            left_out.append(str(error))
        else:
            valid.append(run)
    of_part: Part = "val" if part == "val" else "test"
    displays = _Displays(valid, left_out)
    comparable: dict[tuple[str, str, tuple[int, ...]], list[EntryMetrics]] = defaultdict(list)
    pooled = PooledMetrics()
    for folds in group_folds(valid):
        record = folds[0].record
        try:
            one = entry_metrics(folds, pooled, of_part)
            make_row([one], (), Display())
        except ToolkitError as error:
            left_out.append(str(error))
        else:
            numbers = tuple(sorted(run.record["split"]["fold"] for run in folds))
            key = (record["data"]["fingerprint"], record["split"]["hash"], numbers)
            comparable[key].append(one)
    everything = [one.metrics for entries in comparable.values() for one in entries]
    if everything:
        check_names(columns or (), everything, option="--columns")
        check_names([sort] if sort is not None else [], everything, option="--sort")
    references = published_references() if published else ()
    tables: list[Table] = []
    for _, entries in sorted(comparable.items(), key=lambda item: item[0]):
        requested = tuple(columns) if columns is not None else displays.columns(entries)
        first = next((name for name in displays.columns(entries) if name not in TEXTS), SORT)
        tables.append(
            _group(
                group_seeds(entries, pooled=seeds == "pooled"),
                displays,
                columns=requested or DEFAULT,
                sort=sort or first,
                references=references,
                all_intervals=all_intervals,
                part=of_part,
            )
        )
    return Board(
        groups=tuple(group for group, _ in tables),
        left_out=tuple(dict.fromkeys(map(printable, left_out))),
        overviews=make_overviews(tables, references),
        by_category=by_category,
    )


def _collected(runs: Run | Path | str | Iterable[Run | Path | str] | Collected) -> Collected:
    if isinstance(runs, Collected):
        return runs
    given = [runs] if isinstance(runs, Run | Path | str) else list(runs)
    opened = [one for one in given if isinstance(one, Run)]
    places = [Path(one) for one in given if not isinstance(one, Run)]
    found = collect(places) if places else Collected((), ())
    return Collected((*opened, *found.runs), found.left_out)


class _Displays:
    """The display settings of the benchmarks that runs belong to."""

    def __init__(self, runs: Iterable[Run], left_out: list[str]) -> None:
        self._folders: dict[Path, Mapping[str, Display]] = {}
        for folder in dict.fromkeys(benchmark_folder(run) for run in runs):
            try:
                self._folders[folder] = read_display(folder)
            except ToolkitError as error:
                left_out.append(str(error))
                self._folders[folder] = {}

    def of(self, run: Run) -> Display:
        name = str(run.metadata.get("base_entry", entry_name(run)))
        return self._folders[benchmark_folder(run)].get(name, Display())

    def columns(self, entries: Sequence[EntryMetrics]) -> tuple[str, ...]:
        """Return the columns of all entries, each once, in their order."""
        names = (name for one in entries for run in one.runs for name in self.of(run).columns)
        return tuple(dict.fromkeys(names))


def _group(
    entries: Sequence[Sequence[EntryMetrics]],
    displays: _Displays,
    *,
    columns: tuple[str, ...],
    sort: str,
    references: Sequence[Reference],
    all_intervals: bool,
    part: Part,
) -> Table:
    columns = expanded(columns, [one.metrics for seeds in entries for one in seeds])
    needed = dict.fromkeys([*columns, sort])
    made = [make_row(seeds, needed, displays.of(seeds[0].runs[0])) for seeds in entries]
    order = sorted(range(len(made)), key=lambda i: _sort_key(made[i], sort))
    rows = [made[i] for i in order]
    found = differences([entries[i] for i in order], sort)
    runs = entries[0][0].runs
    record = runs[0].record
    machine = record.get("environment", {})
    data = record["data"]["name"]
    group = Group(
        data=data,
        protocol=record["split"]["protocol"],
        split_hash=record["split"]["hash"],
        fingerprint=record["data"]["fingerprint"],
        folds=tuple(sorted(run.record["split"]["fold"] for run in runs)),
        test_images=sum(len(run.record["split"][part]) for run in runs),
        test_defects=entries[0][0].metrics["image"]["n_defect"],
        hardware=f"{machine.get('processor', 'unknown processor')}, "
        f"{machine.get('cores', '?')} cores, {record['device']}",
        rows=rank_rows(rows, found, sort),
        columns=columns,
        sort=sort,
        differences=found,
        references=tuple(one for one in references if data in one.covers),
        all_intervals=all_intervals,
        warnings=_data_warnings(entries),
        part=part,
    )
    return group, [entries[i] for i in order]


def _data_warnings(entries: Sequence[Sequence[EntryMetrics]]) -> tuple[str, ...]:
    """Return what the runs know of the data, each line once."""
    runs = (run for seeds in entries for one in seeds for run in one.runs)
    stored = (run.metadata.get("data_warnings") for run in runs)
    return tuple(
        dict.fromkeys(str(line) for one in stored if isinstance(one, list) for line in one)
    )


def _sort_key(row: Row, sort: str) -> tuple[bool, float, str]:
    value = row.values[sort]
    if isinstance(value, Undefined):
        return True, 0.0, row.entry
    return False, value if column(sort).lower_is_better else -value, row.entry

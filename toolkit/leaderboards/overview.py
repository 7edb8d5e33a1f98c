"""One table over several data sets: a row per method, a column per category, and the mean."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from toolkit.leaderboards.columns import column
from toolkit.leaderboards.differences import resampled_values
from toolkit.leaderboards.model import Group
from toolkit.leaderboards.published import Reference
from toolkit.leaderboards.rows import EntryMetrics
from toolkit.metrics.bootstrap import LEVEL
from toolkit.metrics.values import Undefined, Value

Table: TypeAlias = tuple[Group, Sequence[Sequence[EntryMetrics]]]
"""A group, and the metrics of its rows, seed by seed."""
_Key: TypeAlias = tuple[str, str, tuple[int, ...]]
"""Method, entry, and the seed where each seed is a row."""


@dataclass(frozen=True)
class OverviewRow:
    """One method on all categories.

    Attributes:
        name: of the row.
        method: name of the method.
        values: by category; a category in which the method has no value is `Undefined`.
        top: the categories in which the row is the best or not significantly different from it.
        mean: over the categories; `Undefined` if a category has no value.
        low, high: 95 % interval of the mean; None where it cannot be resampled.
        wins: categories in which the row is significantly better than every other.
        ties: categories in which it shares the top group with others.
        mean_rank: mean of its ranks within the categories.
        in_top_group: whether its mean is the best one, or not significantly different from it.
    """

    name: str
    method: str
    values: Mapping[str, Value]
    top: tuple[str, ...]
    mean: Value
    low: float | None
    high: float | None
    wins: int
    ties: int
    mean_rank: Value
    in_top_group: bool = False


@dataclass(frozen=True)
class PublishedRow:
    """A method that others measured: its values by category, its mean over them, its sources."""

    name: str
    values: Mapping[str, Value]
    mean: Value
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """Methods on several categories, in one column of their leaderboards.

    Attributes:
        groups: the leaderboard of each category, in the order of the columns.
        sort: name of the column whose values are displayed.
        rows: best mean first; rows without a mean are last.
        published: results of others on these categories.
    """

    groups: tuple[Group, ...]
    sort: str
    rows: tuple[OverviewRow, ...]
    published: tuple[PublishedRow, ...] = ()

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories."""
        return tuple(group.data for group in self.groups)

    @property
    def displayed(self) -> tuple[OverviewRow, ...]:
        """The rows with a value in any category; all rows where there is none."""
        return (
            tuple(
                row
                for row in self.rows
                if not all(isinstance(value, Undefined) for value in row.values.values())
            )
            or self.rows
        )


def make_overviews(
    tables: Sequence[Table], references: Sequence[Reference] = ()
) -> tuple[Overview, ...]:
    """Return one overview per protocol, folds and column of the order with several data sets.

    Groups of one data set on different splits cannot be columns of one table: the first with most
    rows is taken. Where no method ran on two data sets there is no overview.
    """
    alike: dict[tuple[str, tuple[int, ...], str], dict[str, Table]] = defaultdict(dict)
    for table in sorted(tables, key=lambda one: -len(one[0].rows)):
        group = table[0]
        alike[group.protocol, group.folds, group.sort].setdefault(group.data, table)
    made = []
    for by_name in alike.values():
        chosen = [by_name[name] for name in sorted(by_name)]
        keys = [set(_keys(group)) for group, _ in chosen]
        if any(sum(key in some for some in keys) > 1 for key in set().union(*keys)):
            made.append(_overview(chosen, references))
    return tuple(made)


def _keys(group: Group) -> list[_Key]:
    """Return what names each row in every category."""
    repeated = len({(row.method, row.entry) for row in group.rows}) < len(group.rows)
    return [(row.method, row.entry, row.seeds if repeated else ()) for row in group.rows]


def _overview(tables: Sequence[Table], references: Sequence[Reference]) -> Overview:
    groups = tuple(group for group, _ in tables)
    sort = groups[0].sort
    samples: list[dict[_Key, NDArray[np.float64]]] = []
    for group, entries in tables:
        # The draws of two categories must be independent, though equal strata give equal draws.
        draw = np.random.default_rng(zlib.crc32(group.data.encode()))
        order: NDArray[np.int64] | None = None
        found = {}
        for key, values in zip(_keys(group), resampled_values(entries, sort), strict=True):
            if values is not None:
                order = draw.permutation(len(values)) if order is None else order
                found[key] = values[order]
        samples.append(found)
    sign = -1.0 if column(sort).lower_is_better else 1.0
    rows = {
        key: _row(key, groups, sort)
        for key in dict.fromkeys(key for group in groups for key in _keys(group))
    }
    means = {
        key: np.mean([found[key] for found in samples], axis=0)
        for key, row in rows.items()
        if not isinstance(row.mean, Undefined) and all(key in found for found in samples)
    }

    def place(key: _Key) -> tuple[bool, float, str]:
        mean = rows[key].mean
        missing = isinstance(mean, Undefined)
        return missing, 0.0 if isinstance(mean, Undefined) else -sign * mean, rows[key].name

    ordered = sorted(rows, key=place)
    made = []
    for number, key in enumerate(ordered):
        # Weights of few seeds lead out of the range that a metric can have.
        low, high = _interval(means[key].clip(0.0, 1.0)) if key in means else (None, None)
        top = False
        if len(means) > 1 and ordered[0] in means and key in means:
            below, above = _interval(means[ordered[0]] - means[key])
            top = number == 0 or below <= 0 <= above
        made.append(replace(rows[key], low=low, high=high, in_top_group=top))
    return Overview(groups, sort, tuple(made), _published(references, groups, sort))


def _row(key: _Key, groups: Sequence[Group], sort: str) -> OverviewRow:
    values: dict[str, Value] = {}
    ranks: list[int] = []
    top: list[str] = []
    wins = 0
    for group in groups:
        values[group.data] = Undefined("not run")
        for other, row in zip(_keys(group), group.rows, strict=True):
            if other != key:
                continue
            values[group.data] = row.values[sort]
            if row.rank is not None:
                ranks.append(row.rank)
            if row.in_top_group:
                top.append(group.data)
                wins += sum(one.in_top_group for one in group.rows) == 1
    seeds = f", seed {key[2][0]}" if key[2] else ""
    whole = len(ranks) == len(groups)
    return OverviewRow(
        name=f"{key[1]}{seeds}",
        method=key[0],
        values=values,
        top=tuple(top),
        mean=_mean(values),
        low=None,
        high=None,
        wins=wins,
        ties=len(top) - wins,
        mean_rank=float(np.mean(ranks)) if whole else Undefined("not ranked in every category"),
    )


def _mean(values: Mapping[str, Value]) -> Value:
    missing = [name for name, value in values.items() if isinstance(value, Undefined)]
    if missing:
        return Undefined(f"no value for {', '.join(missing)}")
    return float(np.mean([value for value in values.values() if isinstance(value, int | float)]))


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1.0 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def _published(
    references: Sequence[Reference], groups: Sequence[Group], sort: str
) -> tuple[PublishedRow, ...]:
    made = []
    names = [group.data for group in groups]
    for method in dict.fromkeys(one.method for one in references):
        theirs = {
            one.data: one
            for one in references
            if one.method == method and one.data in names and sort in one.values
        }
        if not theirs:
            continue
        values: dict[str, Value] = {
            name: theirs[name].values[sort] if name in theirs else Undefined("not published")
            for name in names
        }
        sources = tuple(dict.fromkeys(one.source for one in theirs.values()))
        made.append(PublishedRow(method, values, _mean(values), sources))
    return tuple(made)

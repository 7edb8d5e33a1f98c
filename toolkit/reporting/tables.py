"""Tables of the page as plain cells: leaderboard, confusion matrices, defect types."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from toolkit.data.types import GOOD
from toolkit.leaderboards.columns import TEXTS, Column, column
from toolkit.leaderboards.model import Group, Row
from toolkit.leaderboards.overview import Overview
from toolkit.metrics.image import image_metrics
from toolkit.metrics.values import Undefined, Value
from toolkit.reporting.collect import MethodResults

_TEXT_NOTES = {
    "labels": "number and kind of the labelled defect images in training",
    "weights": "pretrained weights that training started from",
    "published": "a value that others have published",
}


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: displayed text.
        sort: sort key; cells with None are always last.
        note: tooltip: the interval, the source, or the reason for a missing value.
        interval: (low, value, high) where an interval is drawn.
        spread: standard deviation over seeds, as text.
    """

    text: str
    sort: float | str | None
    note: str = ""
    interval: tuple[float, float, float] | None = None
    spread: str = ""


@dataclass(frozen=True)
class TableColumn:
    """A column of the leaderboard.

    Attributes:
        heading: displayed heading.
        note: meaning, as a tooltip.
        cells: one per row.
        numeric: whether it holds numbers.
        lower_is_better: whether sorting starts with the lowest.
        order: `descending` or `ascending` for the column that the rows are ranked by, else `none`.
    """

    heading: str
    note: str
    cells: tuple[Cell, ...]
    numeric: bool = True
    lower_is_better: bool = False
    order: str = "none"


@dataclass(frozen=True)
class OverviewCells:
    """A method's row in a table over several data sets.

    Attributes:
        name: of the method.
        cells: one per heading.
        top: for each category and the mean, whether it belongs to the top group there.
        is_published: whether others measured it.
    """

    name: str
    cells: tuple[Cell, ...]
    top: tuple[bool, ...]
    is_published: bool = False


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix: rows are true classes, columns predicted ones."""

    caption: str
    true_names: tuple[str, ...]
    pred_names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TypeResult:
    """One defect type of one method: flagged images (None without threshold), images, AUROC."""

    flagged: int | None
    images: int
    auroc: Value


def leaderboard_columns(group: Group) -> list[TableColumn]:
    """Return the columns of the group that have a value in some row."""
    columns = [
        _text_column(group, name) if name in TEXTS else _metric_column(group, name)
        for name in group.columns
    ]
    return [one for one in columns if _has_values(one)]


def overview_rows(overview: Overview) -> list[OverviewCells]:
    """Return the rows of a table over several data sets, best mean first, published ones last."""
    digits = column(overview.sort).digits
    rows = []
    for row in overview.rows:
        values = [_value_cell(row.values[name], digits) for name in overview.categories]
        mean = _value_cell(row.mean, digits)
        if row.low is not None and row.high is not None:
            interval = f"[{row.low:.{digits}f}, {row.high:.{digits}f}]"
            mean = replace(mean, spread=interval, note=f"95 % interval {interval}")
        counts = [Cell(str(n), n) for n in (row.wins, row.ties)]
        top = tuple(name in row.top for name in overview.categories)
        rank = _value_cell(row.mean_rank, 1)
        rows.append(
            OverviewCells(row.name, (*values, mean, *counts, rank), (*top, row.in_top_group))
        )
    for one in overview.published:
        found = [_value_cell(one.values[name], digits) for name in overview.categories]
        none = [Cell("–", None, "not published")] * 3
        cells = (*found, _value_cell(one.mean, digits), *none)
        rows.append(OverviewCells(one.name, cells, (), is_published=True))
    return rows


def _value_cell(value: Value, digits: int) -> Cell:
    if isinstance(value, Undefined):
        return Cell("–", None, value.reason)
    return Cell(f"{value:.{digits}f}", value)


def more_columns(group: Group) -> list[TableColumn]:
    """Return all other metrics that have a value in some row."""
    names = dict.fromkeys(name for row in group.rows for name in row.values)
    columns = [_metric_column(group, name) for name in names if name not in group.columns]
    return [one for one in columns if _has_values(one)]


def ranks(group: Group) -> list[tuple[int | None, bool]]:
    """Return for each row its rank by value, and whether it belongs to the top group.

    The top group is the best row and all rows that are not significantly different from it.
    """
    return [(row.rank, row.in_top_group) for row in group.rows]


def interval_scale(columns: Sequence[TableColumn]) -> tuple[float, float]:
    """Return the ends of the axis on which intervals are drawn."""
    drawn = [c.interval for one in columns if one.order != "none" for c in one.cells if c.interval]
    low = min([0.9, *(interval[0] for interval in drawn)])
    high = max([1.0, *(interval[2] for interval in drawn)])
    return math.floor(low * 10 + 1e-9) / 10, high


def decision_confusion(method: MethodResults) -> Confusion | None:
    """Return good against defect at the threshold; None where a fold has no threshold."""
    if None in method.flagged:
        return None
    counts = [[0, 0], [0, 0]]
    for truth, flag in zip(method.is_defect, method.flagged, strict=True):
        counts[int(truth)][int(bool(flag))] += 1
    names = (GOOD, "defect")
    return Confusion(method.name, names, ("passed", "flagged"), tuple(map(tuple, counts)))


def class_confusion(method: MethodResults) -> Confusion | None:
    """Return the predicted classes, summed over folds; None where there are no classes."""
    stored = [one.confusion for one in method.runs if one.confusion is not None]
    if len(stored) < len(method.runs) or len({names for names, _ in stored}) != 1:
        return None
    names = stored[0][0]
    counts = np.sum([counts for _, counts in stored], axis=0)
    return Confusion(method.name, names, names, tuple(map(tuple, counts.tolist())))


def results_by_type(method: MethodResults) -> dict[str, TypeResult]:
    """Return the results of each defect type; for `good`, flagged images are false alarms."""
    labels = list(method.labels.values())
    metrics = image_metrics(method.scores, method.is_defect, defect_types=labels)
    results = {}
    for label in sorted(set(labels), key=lambda name: (name != GOOD, name)):
        flags = [f for f, one in zip(method.flagged, labels, strict=True) if one == label]
        flagged = None if None in flags else sum(map(bool, flags))
        auroc = metrics.auroc_by_type.get(label, Undefined("good images have no AUROC"))
        results[label] = TypeResult(flagged, len(flags), auroc)
    return results


def _metric_column(group: Group, name: str) -> TableColumn:
    about = column(name)
    order = "ascending" if about.lower_is_better else "descending"
    return TableColumn(
        about.heading,
        about.about,
        tuple(_metric_cell(row, about) for row in group.rows),
        lower_is_better=about.lower_is_better,
        order=order if name == group.sort else "none",
    )


def _metric_cell(row: Row, about: Column) -> Cell:
    value = row.values.get(about.name)
    if value is None or isinstance(value, Undefined):
        return Cell("–", None, value.reason if value is not None else "not computed")
    text = f"{value:,.{about.digits}f}"
    if about.name in row.spread:
        spread = f"± {row.spread[about.name]:,.{about.digits}f}"
        return Cell(text, value, f"{spread} over {len(row.seeds)} seeds", spread=spread)
    interval = row.intervals.get(about.interval)
    if isinstance(interval, Mapping) and "low" in interval and "high" in interval:
        low, high = float(interval["low"]), float(interval["high"])
        return Cell(text, value, f"[{low:.2f}, {high:.2f}]", (low, value, high))
    return Cell(text, value)


def _text_column(group: Group, name: str) -> TableColumn:
    cells: list[Cell] = []
    for row in group.rows:
        if name == "labels":
            first = row.labels.split(" ")[0]
            cells.append(Cell(row.labels, float(first) if first.isdigit() else 0.0))
        elif name == "weights":
            cells.append(Cell(row.weights, row.weights, row.weights_source))
        else:
            published = row.published or {}
            value, source = published.get("value"), str(published.get("source", "not published"))
            if isinstance(value, int | float):
                cells.append(Cell(f"{value:.3f}", float(value), source))
            else:
                cells.append(
                    Cell("–" if value is None else str(value), value and str(value), source)
                )
    return TableColumn(name, _TEXT_NOTES.get(name, ""), tuple(cells), numeric=name != "weights")


def _has_values(one: TableColumn) -> bool:
    return any(cell.sort is not None for cell in one.cells)

"""The tables of the page as plain cells: leaderboard, confusion matrices, defect types."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.data.types import GOOD
from toolkit.leaderboard.columns import TEXTS, Column, column
from toolkit.leaderboard.format import TOP
from toolkit.metrics.image import image_metrics
from toolkit.metrics.values import Undefined, Value

if TYPE_CHECKING:
    from toolkit.leaderboard.model import Group, Row
    from toolkit.report.collect import Shown

_ABOUT_TEXTS = {
    "labels": "training defects, and what was told of them",
    "weights": "pretrained weights it started from",
    "published": "a figure that others report",
}


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what it shows.
        sort: what it is sorted by; None stands last either way.
        note: why there is no figure, or what else is to be said.
        interval: (low, value, high) where an interval is drawn.
    """

    text: str
    sort: float | str | None
    note: str = ""
    interval: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class BoardColumn:
    """A column of the leaderboard.

    Attributes:
        heading: what stands over it.
        note: what the figure is.
        cells: row by row.
        numeric: whether it holds figures.
        lower_is_better: whether sorting begins with the lowest.
        order: `descending` or `ascending` for the column that the rows are sorted by.
    """

    heading: str
    note: str
    cells: tuple[Cell, ...]
    numeric: bool = True
    lower_is_better: bool = False
    order: str = "none"


@dataclass(frozen=True)
class Confusion:
    """Counts of images: rows are what they are, columns what was said."""

    caption: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    said: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """One defect type under one method: how many were flagged, and the AUROC against all good."""

    flagged: int | None
    images: int
    auroc: Value


def leaderboard_columns(group: Group) -> list[BoardColumn]:
    """Return rank and the group's columns; figures that no method has are left out."""
    ranked = tuple(
        Cell("–", None, "no value")
        if row.rank is None
        else Cell(f"{row.rank}{TOP if row.in_top_group else ''}", row.rank)
        for row in group.rows
    )
    note = f"rank in the sorted column; {TOP} not significantly different from the best"
    columns = [BoardColumn("#", note, ranked, lower_is_better=True)]
    columns += [_text(group, name) if name in TEXTS else _figures(group, name)
                for name in group.columns]  # fmt: skip
    return [one for one in columns if _says_anything(one)]


def more_columns(group: Group) -> list[BoardColumn]:
    """Return the figures that the leaderboard has no room for."""
    names = dict.fromkeys(name for row in group.rows for name in row.values)
    columns = [_figures(group, name) for name in names if name not in group.columns]
    return [one for one in columns if _says_anything(one)]


def interval_scale(columns: Sequence[BoardColumn]) -> tuple[float, float]:
    """Return the ends of the axis on which the intervals are drawn."""
    drawn = [c.interval for one in columns if one.order != "none" for c in one.cells if c.interval]
    low = min([0.9, *(interval[0] for interval in drawn)])
    high = max([1.0, *(interval[2] for interval in drawn)])
    return math.floor(low * 10 + 1e-9) / 10, high


def decision_confusion(shown: Shown) -> Confusion | None:
    """Return good against defect at the threshold; None where a fold has no threshold."""
    if any(flag is None for flag in shown.flagged):
        return None
    counts = [[0, 0], [0, 0]]
    for truth, flag in zip(shown.is_defect, shown.flagged, strict=True):
        counts[int(truth)][int(bool(flag))] += 1
    return Confusion(
        caption=shown.name,
        classes=(GOOD, "defect"),
        said=("passed", "flagged"),
        counts=tuple(tuple(row) for row in counts),
    )


def class_confusion(shown: Shown) -> Confusion | None:
    """Return the classes said, folds added up; None where the method does not classify."""
    found = [part.run.metrics().get("classification") for part in shown.parts]
    stored = [one for one in found if isinstance(one, Mapping)]
    if len(stored) < len(found):
        return None
    classes = stored[0]["classes"]
    if any(one["classes"] != classes for one in stored):
        return None
    counts = [[sum(one["confusion"][i][j] for one in stored) for j in range(len(classes))]
              for i in range(len(classes))]  # fmt: skip
    return Confusion(
        caption=shown.name,
        classes=tuple(classes),
        said=tuple(classes),
        counts=tuple(tuple(row) for row in counts),
    )


def found_by_type(shown: Shown) -> dict[str, Found]:
    """Return, by defect type, how many were flagged and the AUROC; `good` counts false alarms."""
    labels = [s.label for s in shown.samples]
    metrics = image_metrics(shown.scores, shown.is_defect, defect_types=labels)
    found = {}
    for label in sorted(set(labels), key=lambda name: (name != GOOD, name)):
        flags = [f for f, one in zip(shown.flagged, labels, strict=True) if one == label]
        known = None if any(f is None for f in flags) else sum(map(bool, flags))
        auroc = metrics.auroc_by_type.get(label, Undefined("good images have none of their own"))
        found[label] = Found(flagged=known, images=len(flags), auroc=auroc)
    return found


def _figures(group: Group, name: str) -> BoardColumn:
    about = column(name)
    order = "ascending" if about.lower_is_better else "descending"
    return BoardColumn(
        about.heading,
        about.about,
        tuple(_figure(row, about) for row in group.rows),
        lower_is_better=about.lower_is_better,
        order=order if name == group.sort else "none",
    )


def _figure(row: Row, about: Column) -> Cell:
    value = row.values.get(about.name)
    if value is None or isinstance(value, Undefined):
        return Cell("–", None, value.reason if value is not None else "not computed")
    text = f"{value:,.{about.digits}f}"
    if about.name in row.spread:
        spread = f"{row.spread[about.name]:,.{about.digits}f}"
        return Cell(text, value, f"± {spread} over {len(row.seeds)} seeds")
    interval = row.intervals.get(about.interval)
    if isinstance(interval, Mapping) and "low" in interval and "high" in interval:
        low, high = float(interval["low"]), float(interval["high"])
        return Cell(text, value, f"[{low:.2f}, {high:.2f}]", (low, value, high))
    return Cell(text, value)


def _text(group: Group, name: str) -> BoardColumn:
    cells: list[Cell] = []
    for row in group.rows:
        if name == "labels":
            cells.append(Cell(row.labels, _count(row.labels)))
        elif name == "weights":
            cells.append(Cell(row.weights, row.weights, row.weights_source))
        else:
            told = row.published or {}
            found, source = told.get("value"), str(told.get("source", "not published"))
            cells.append(Cell("–", None, source) if found is None else _published(found, source))
    return BoardColumn(name, _ABOUT_TEXTS.get(name, ""), tuple(cells), numeric=name != "weights")


def _published(value: object, source: str) -> Cell:
    if isinstance(value, int | float):
        return Cell(f"{value:.3f}", float(value), source)
    return Cell(str(value), str(value), source)


def _says_anything(one: BoardColumn) -> bool:
    return any(cell.sort is not None for cell in one.cells)


def _count(labels: str) -> float:
    first = labels.split(" ")[0]
    return float(first) if first.isdigit() else 0.0

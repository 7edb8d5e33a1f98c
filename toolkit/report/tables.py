"""The tables of the page as plain cells: leaderboard, confusion matrices, defect types."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit.data.types import GOOD
from toolkit.metrics.image import image_metrics
from toolkit.metrics.values import Undefined, Value

if TYPE_CHECKING:
    from toolkit.report.collect import Shown

FIGURES = {
    "auroc": ("AUROC", "image level, area under ROC on raw scores; 95 % bootstrap interval"),
    "ap": ("AP", "image level, average precision"),
    "f1": ("F1", "at the threshold chosen on validation"),
    "accuracy": ("acc", "accuracy at the threshold chosen on validation"),
    "map50": ("mAP50", "boxes, at IoU 0.5"),
    "mask_iou": ("IoU", "union mask on defective images"),
    "pixel_auroc": ("pixel", "pixel-level AUROC of the score map"),
    "aupro": ("AUPRO", "area under per-region overlap up to a false-positive rate of 0.3"),
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
class Column:
    """A column of the leaderboard."""

    heading: str
    note: str
    cells: tuple[Cell, ...]
    numeric: bool = True


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


def leaderboard_columns(methods: Sequence[Shown]) -> list[Column]:
    """Return the columns; figures that no method has are left out."""
    rows = [m.row for m in methods]
    columns = []
    for key, (heading, note) in FIGURES.items():
        cells = tuple(_figure(row.values.get(key), row.intervals.get(key)) for row in rows)
        if any(cell.sort is not None for cell in cells):
            columns.append(Column(heading, note, cells))
    ms = [row.ms_per_image for row in rows]
    return [
        *columns,
        Column("labels", "training defects, and what was told of them",
               tuple(Cell(row.labels, _count(row.labels)) for row in rows)),
        Column("weights", "pretrained weights it started from",
               tuple(Cell(row.weights, row.weights, row.weights_source) for row in rows), False),
        Column("fit s", "seconds to fit, all folds together",
               tuple(Cell(f"{row.fit_seconds:,.0f}", row.fit_seconds) for row in rows)),
        Column("ms", "milliseconds per image, from file to prediction, median",
               tuple(Cell("–", None, "not timed") if v is None else Cell(f"{v:,.0f}", v)
                     for v in ms)),
    ]  # fmt: skip


def more_columns(methods: Sequence[Shown]) -> list[Column]:
    """Return the figures that the leaderboard has no room for."""
    rows = [m.row for m in methods]
    keys = dict.fromkeys(key for row in rows for key in row.values if key not in FIGURES)
    columns = [
        Column(key.replace("_", " "), "", tuple(
            _figure(row.values.get(key), row.intervals.get(key)) for row in rows))
        for key in keys
    ]  # fmt: skip
    return [column for column in columns if any(cell.sort is not None for cell in column.cells)]


def interval_scale(columns: Sequence[Column]) -> tuple[float, float]:
    """Return the ends of the axis on which the intervals are drawn."""
    lows = [c.interval[0] for column in columns for c in column.cells if c.interval]
    return math.floor(min([0.9, *lows]) * 10 + 1e-9) / 10, 1.0


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


def _figure(value: Value | None, interval: Any) -> Cell:
    if value is None or isinstance(value, Undefined):
        return Cell("–", None, value.reason if value is not None else "not computed")
    if isinstance(interval, Mapping) and "low" in interval and "high" in interval:
        low, high = float(interval["low"]), float(interval["high"])
        return Cell(f"{value:.3f}", value, f"{low:.2f} to {high:.2f}", (low, value, high))
    return Cell(f"{value:.3f}", value)


def _count(labels: str) -> float:
    first = labels.split(" ")[0]
    return float(first) if first.isdigit() else 0.0

"""Plots as Vega-Lite specifications.

A colour such as `$good` names a CSS variable of the page, whose script fills in the value for the
light or dark theme.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from toolkit.leaderboards.columns import column
from toolkit.metrics.values import Undefined
from toolkit.reporting.curves import histogram, roc_points

if TYPE_CHECKING:
    from toolkit.reporting.collect import MethodResults, RunResults

Chart: TypeAlias = dict[str, Any]
Points: TypeAlias = list[tuple[float, float]]

PRO_LIMIT = 0.3
N_COLORS = 8
"""Colours of the page's palette; with more methods, lines differ in their dashes too."""
BUDGET_METRICS = ("auroc", "f1", "map50", "mask_iou", "aupro")
_DASHES = ([1, 0], [6, 3], [2, 2])
_PHASE_DASHES = {"train": [4, 3], "val": [1, 0], "test": [8, 3], "": [1, 0]}
_NOT_PLOTTED = {"epoch", "seconds", "lr"}
_PHASE = re.compile(r"^(train|val|test)_(.+)$")


def roc_chart(methods: Sequence[MethodResults]) -> Chart | None:
    """Plot recall over false-positive rate, one line per method; None if no method has a curve."""
    return _curve_chart(
        {m.name: roc_points(m.scores, m.is_defect) for m in methods},
        x="false-alarm rate (good images flagged)",
        y="recall (defective images flagged)",
        x_end=1.0,
        description="ROC curves of the image-level scores, one line per method",
    )


def pro_chart(points: Mapping[str, Points | None]) -> Chart | None:
    """Plot per-region overlap over false-positive rate; None if no method has a curve."""
    return _curve_chart(
        {name: _cut(curve or [], PRO_LIMIT) for name, curve in points.items()},
        x="false-positive rate (good pixels flagged)",
        y="mean overlap with the true regions",
        x_end=PRO_LIMIT,
        description="Per-region overlap of the anomaly maps up to a false-positive rate of 0.3",
    )


def score_chart(method: MethodResults) -> Chart:
    """Plot a histogram of the scores of good and defective images, with the thresholds."""
    thresholds = sorted({one.threshold for one in method.runs if one.threshold is not None})
    bins = histogram(method.scores, method.is_defect)
    color = {"domain": ["good", "defect"], "range": ["$good", "$defect"]}
    bars: Chart = {
        "data": {"values": bins},
        "mark": {"type": "bar", "binSpacing": 1},
        "encoding": {
            "x": {
                **_axis("low", "image score", grid=False, tickCount=5),
                "bin": {"binned": True},
                "scale": {"zero": False},
            },
            "x2": {"field": "high"},
            "y": {
                **_axis("count", "images", values=_count_ticks(bins), format="d"),
                "stack": "zero",
            },
            "color": {"field": "truth", "type": "nominal", "scale": color, "legend": None},
            "tooltip": [
                {"field": "truth"},
                {"field": "count", "title": "images"},
                {"field": "low", "title": "score from", "format": ".4~g"},
                {"field": "high", "title": "to", "format": ".4~g"},
            ],
        },
    }
    rule: Chart = {
        "data": {"values": [{"threshold": t} for t in thresholds]},
        "mark": {"type": "rule", "strokeDash": [5, 3], "strokeWidth": 1.5, "color": "$ink"},
        "encoding": {
            "x": {"field": "threshold", "type": "quantitative"},
            "tooltip": [{"field": "threshold", "format": ".4~g"}],
        },
    }
    return _chart(
        {"layer": [bars, rule] if thresholds else [bars]},
        height=150,
        description=f"Histogram of the image scores of {method.name}, good and defective images",
    )


def learning_charts(runs: Sequence[RunResults]) -> list[tuple[str, Chart]]:
    """Plot `results.csv`: (`losses` or `metrics`, chart) for those that have several epochs."""
    points: dict[str, list[dict[str, Any]]] = {"losses": [], "metrics": []}
    for one in runs:
        for row in one.epochs:
            epoch = _number(row.get("epoch"))
            for name, text in row.items():
                value = _number(text)
                if epoch is None or value is None or name in _NOT_PLOTTED:
                    continue
                match = _PHASE.match(name)
                phase, short = match.groups() if match else ("", name)
                point = {"epoch": epoch, "value": value, "metric": short.replace("_", " "),
                         "part": phase, "fold": one.run.record["split"]["fold"]}  # fmt: skip
                points["losses" if "loss" in name else "metrics"].append(point)
    return [
        (kind, _learning_chart(kind, values))
        for kind, values in points.items()
        if len({p["epoch"] for p in values}) > 1
    ]


def budget_charts(methods: Sequence[MethodResults]) -> dict[str, Chart]:
    """Plot metrics over the number of labelled defect images, where runs have label budgets.

    Returns:
        Charts by column name; empty where no run has a budget.
    """
    points = {name: _budget_points(methods, name) for name in BUDGET_METRICS}
    # The same colours in all charts.
    names = sorted({point["method"] for found in points.values() for point in found})
    return {name: _budget_chart(name, found, names) for name, found in points.items() if found}


def _curve_chart(
    lines: Mapping[str, Points | None], *, x: str, y: str, x_end: float, description: str
) -> Chart | None:
    names = list(lines)
    drawn = [name for name in names if lines[name]]
    if not drawn:
        return None
    places = [names.index(name) for name in drawn]
    dashes = [_DASHES[place // N_COLORS % len(_DASHES)] for place in places]
    line = {"field": "method", "type": "nominal", "legend": {"title": None}}
    content = {
        "data": {
            "values": [
                {"method": name, "x": x_value, "y": y_value, "order": order}
                for name in drawn
                for order, (x_value, y_value) in enumerate(lines[name] or [])
            ]
        },
        # A click on a name in the legend dims the other lines.
        "params": [
            {
                "name": "selected",
                "select": {"type": "point", "fields": ["method"]},
                "bind": "legend",
            }
        ],
        "mark": {"type": "line", "strokeWidth": 2, "strokeJoin": "round"},
        "encoding": {
            "x": {**_axis("x", x, tickCount=6), "scale": {"domain": [0, x_end]}},
            "y": {**_axis("y", y, tickCount=6), "scale": {"domain": [0, 1]}},
            "order": {"field": "order", "type": "quantitative"},
            "color": {**line, "scale": {"domain": drawn, "range": _colors(places)}},
            "strokeDash": {**line, "scale": {"domain": drawn, "range": dashes}},
            "opacity": {
                "condition": {"param": "selected", "value": 1, "empty": True},
                "value": 0.12,
            },
            "tooltip": [
                {"field": "method"},
                {"field": "x", "title": x, "format": ".3f"},
                {"field": "y", "title": y, "format": ".3f"},
            ],
        },
    }
    return _chart(content, height=320, description=description)


def _learning_chart(kind: str, values: list[dict[str, Any]]) -> Chart:
    several_folds = len({p["fold"] for p in values}) > 1
    phases = [phase for phase in _PHASE_DASHES if any(p["part"] == phase for p in values)]
    epochs = sorted({p["epoch"] for p in values})
    ticks = {"values": epochs} if len(epochs) <= 12 else {}  # no ticks at half epochs
    content = {
        "data": {"values": values},
        "mark": {"type": "line", "strokeWidth": 1.6, "opacity": 0.55 if several_folds else 1},
        "encoding": {
            "x": {
                **_axis("epoch", "epoch", grid=False, format="d", **ticks),
                "scale": {"nice": False},
            },
            "y": _axis("value", "loss" if kind == "losses" else "value", tickCount=5),
            "color": {"field": "metric", "type": "nominal", "legend": {"title": None}},
            "strokeDash": {
                "field": "part",
                "type": "nominal",
                "scale": {"domain": phases, "range": [_PHASE_DASHES[p] for p in phases]},
                "legend": {"title": None} if len(phases) > 1 else None,
            },
            "detail": {"field": "fold", "type": "nominal"},
            "tooltip": [
                *({"field": name} for name in ("metric", "part", "epoch")),
                {"field": "value", "format": ".4~g"},
                {"field": "fold"},
            ],
        },
    }
    return _chart(content, height=190, description=f"Learning curves: {kind} over epochs")


def _budget_points(methods: Sequence[MethodResults], name: str) -> list[dict[str, Any]]:
    points = []
    for method in methods:
        metadata = method.runs[0].run.metadata
        value = method.row.values.get(name, Undefined("not computed"))
        if "budget" not in metadata or isinstance(value, Undefined):
            continue
        interval = method.row.intervals.get(column(name).interval)
        point = {
            "method": str(metadata.get("base_entry", method.row.entry)),
            "labels": metadata.get("labels", {}).get("train", 0),
            "budget": str(metadata["budget"]),
            "value": value,
            "seed": method.row.seed,
        }
        if isinstance(interval, Mapping) and "low" in interval:
            point |= {"low": interval["low"], "high": interval["high"]}
        points.append(point)
    budgets: dict[str, set[str]] = {}
    for point in points:
        budgets.setdefault(point["method"], set()).add(point["budget"])
    return [{**point, "flat": budgets[point["method"]] == {"0"}} for point in points]


def _budget_chart(name: str, points: list[dict[str, Any]], names: Sequence[str]) -> Chart:
    heading = column(name).heading
    counts = sorted({point["labels"] for point in points})
    x = {
        **_axis("labels", "labelled defect images in training", values=counts, format="d"),
        # Spreads out small numbers, and shows zero.
        "scale": {"type": "symlog", "constant": 2, "nice": False, "padding": 12},
    }
    y = {**_axis("value", heading, tickCount=6), "scale": {"zero": False}}
    color = {
        "field": "method",
        "type": "nominal",
        "scale": {"domain": list(names), "range": _colors(range(len(names)))},
        "legend": {"title": None},
    }
    mean = {**y, "aggregate": "mean"}
    lines: Chart = {
        "transform": [{"filter": "!datum.flat"}],
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {"x": x, "y": mean, "color": color},
    }
    # A method that needs no labels is a horizontal line.
    flat_lines: Chart = {
        "transform": [{"filter": "datum.flat"}],
        "mark": {"type": "rule", "strokeDash": [6, 3], "strokeWidth": 2},
        "encoding": {"y": mean, "color": color},
    }
    intervals: Chart = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.5},
        "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": color},
    }
    tooltip = [
        {"field": "method"},
        {"field": "budget", "title": "defect images per type"},
        {"field": "labels", "title": "labelled defect images"},
        {"field": "value", "title": heading, "format": ".3f"},
        {"field": "low", "title": "95 % interval from", "format": ".3f"},
        {"field": "high", "title": "to", "format": ".3f"},
        {"field": "seed"},
    ]
    marks: Chart = {
        "mark": {"type": "point", "filled": True, "size": 45, "opacity": 1},
        "encoding": {"x": x, "y": y, "color": color, "tooltip": tooltip},
    }
    # Vega warns about layers without points.
    layers = [
        *([lines] if not all(p["flat"] for p in points) else []),
        *([flat_lines] if any(p["flat"] for p in points) else []),
        *([intervals] if any("low" in p for p in points) else []),
        marks,
    ]
    return _chart(
        {"data": {"values": points}, "layer": layers},
        height=260,
        description=f"{heading} over the number of labelled defect images in training",
    )


def _chart(content: Chart, *, height: int, description: str) -> Chart:
    """Return a chart as wide as its container, with a description for screen readers."""
    return {"width": "container", "height": height, "description": description, **content}


def _axis(field: str, title: str, **options: Any) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "axis": {"title": title, **options}}


def _colors(places: Sequence[int]) -> list[str]:
    return [f"$series{place % N_COLORS}" for place in places]


def _count_ticks(bins: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return about five whole ticks for stacked counts."""
    heights: dict[float, int] = {}
    for one in bins:
        heights[one["low"]] = heights.get(one["low"], 0) + one["count"]
    highest = max(heights.values())
    return list(range(0, highest + 1, max(1, math.ceil(highest / 5))))


def _cut(points: Points, end: float) -> Points:
    """Cut an ascending curve at `end`, with a point there."""
    kept = [point for point in points if point[0] <= end]
    if not kept or len(kept) == len(points):
        return kept
    (x0, y0), (x1, y1) = kept[-1], points[len(kept)]
    return [*kept, (end, y0 + (y1 - y0) * (end - x0) / (x1 - x0))]


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None

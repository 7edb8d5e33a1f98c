"""Quality against labels: what each labelled defect image was worth, as Vega-Lite charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.leaderboard.columns import column
from toolkit.metrics.values import Undefined
from toolkit.reporting.charts import Chart, chart, palette

if TYPE_CHECKING:
    from toolkit.reporting.collect import Shown

FIGURES = ("auroc", "f1", "map50", "mask_iou", "aupro")


def budget_charts(methods: Sequence[Shown]) -> dict[str, Chart]:
    """Draw each figure that some method has, over the number of labelled defect images.

    Returns:
        By the name of the column; empty where no run carries a budget.
    """
    points = {name: _points(methods, name) for name in FIGURES}
    # One colour per method in all of them.
    drawn = sorted({point["method"] for found in points.values() for point in found})
    return {name: _budget_chart(name, found, drawn) for name, found in points.items() if found}


def _points(methods: Sequence[Shown], name: str) -> list[dict[str, Any]]:
    points = []
    for shown in methods:
        facts = shown.parts[0].run.metadata
        value = shown.row.values.get(name, Undefined("not there"))
        if "budget" not in facts or isinstance(value, Undefined):
            continue
        interval = shown.row.intervals.get(column(name).interval)
        point = {
            "method": str(facts.get("base_entry", shown.row.entry)),
            "labels": facts.get("labels", {}).get("train", 0),
            "budget": str(facts["budget"]),
            "value": value,
            "seed": shown.row.seed,
        }
        if isinstance(interval, Mapping) and "low" in interval:
            point |= {"low": interval["low"], "high": interval["high"]}
        points.append(point)
    lone = {m for m in {p["method"] for p in points} if _budgets_of(points, m) == {"0"}}
    return [{**point, "flat": point["method"] in lone} for point in points]


def _budgets_of(points: Sequence[Mapping[str, Any]], method: str) -> set[str]:
    return {point["budget"] for point in points if point["method"] == method}


def _budget_chart(name: str, points: list[dict[str, Any]], drawn: Sequence[str]) -> Chart:
    heading = column(name).heading
    counts = sorted({point["labels"] for point in points})
    x = {
        "field": "labels",
        "type": "quantitative",
        # The first few labels are the dear ones; there is a zero among them.
        "scale": {"type": "symlog", "constant": 2, "nice": False, "padding": 12},
        "axis": {"title": "labelled defect images in training", "values": counts, "format": "d"},
    }
    y = {
        "field": "value",
        "type": "quantitative",
        "scale": {"zero": False},
        "axis": {"title": heading, "tickCount": 6},
    }
    color = {
        "field": "method",
        "type": "nominal",
        "scale": {"domain": list(drawn), "range": palette(drawn, drawn)},
        "legend": {"title": None},
    }
    tooltip = [
        {"field": "method"},
        {"field": "budget", "title": "defect images per type"},
        {"field": "labels", "title": "in all"},
        {"field": "value", "title": heading, "format": ".3f"},
        {"field": "low", "title": "95 % from", "format": ".3f"},
        {"field": "high", "title": "to", "format": ".3f"},
        {"field": "seed"},
    ]
    mean = {**y, "aggregate": "mean"}
    lines: Chart = {
        "transform": [{"filter": "!datum.flat"}],
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {"x": x, "y": mean, "color": color},
    }
    # A method that needs no label is what the others have to beat, all along.
    flat_lines: Chart = {
        "transform": [{"filter": "datum.flat"}],
        "mark": {"type": "rule", "strokeDash": [6, 3], "strokeWidth": 2},
        "encoding": {"y": mean, "color": color},
    }
    bars: Chart = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.5},
        "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": color},
    }
    marks: Chart = {
        "mark": {"type": "point", "filled": True, "size": 45, "opacity": 1},
        "encoding": {"x": x, "y": y, "color": color, "tooltip": tooltip},
    }
    # A layer without a point would have no extent.
    layers = [
        *([lines] if not all(p["flat"] for p in points) else []),
        *([flat_lines] if any(p["flat"] for p in points) else []),
        *([bars] if any("low" in p for p in points) else []),
        marks,
    ]
    return chart(
        {"data": {"values": points}, "layer": layers},
        height=260,
        description=f"{heading} over the number of labelled defect images in training",
    )

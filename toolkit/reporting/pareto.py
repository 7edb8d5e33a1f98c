"""Quality against latency: every method a point, those that none beats in both on a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.leaderboards.columns import column

if TYPE_CHECKING:
    from toolkit.reporting.charts import Chart
    from toolkit.reporting.collect import MethodResults

METRICS = ("auroc", "map50", "mask_iou", "aupro")
LATENCY = "latency"


def pareto_charts(methods: Sequence[MethodResults]) -> dict[str, Chart]:
    """Plot metrics over the latency, where at least two methods have both.

    Returns:
        Charts by column name.
    """
    found = {name: _points(methods, name) for name in METRICS}
    return {name: _chart(name, points) for name, points in found.items() if len(points) > 1}


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Tell which points are on the Pareto front: none is as fast and better, or as good and faster.

    Example:
        >>> front([(10, 0.9), (20, 0.8), (30, 0.95)])
        [True, False, True]

    Args:
        points: latency (lower is better) and quality (higher is better) of each.
    """
    return [
        not any(x <= latency and y >= quality and (x, y) != (latency, quality) for x, y in points)
        for latency, quality in points
    ]


def _points(methods: Sequence[MethodResults], name: str) -> list[dict[str, Any]]:
    points = []
    for method in methods:
        value, latency = (method.row.values.get(key) for key in (name, LATENCY))
        if not isinstance(value, float) or not isinstance(latency, float):
            continue
        point: dict[str, Any] = {"method": method.name, "value": value, "latency": latency}
        interval = method.row.intervals.get(column(name).interval)
        if isinstance(interval, Mapping) and "low" in interval:
            point |= {"low": interval["low"], "high": interval["high"]}
        points.append(point)
    on_front = front([(p["latency"], p["value"]) for p in points])
    return [{**point, "front": best} for point, best in zip(points, on_front, strict=True)]


def _chart(name: str, points: list[dict[str, Any]]) -> Chart:
    heading, latency = column(name).heading, column(LATENCY).heading
    x = {
        "field": "latency",
        "type": "quantitative",
        "scale": {"type": "log", "nice": True, "padding": 20},
        "axis": {"title": f"{latency} (logarithmic)", "tickCount": 5, "format": "~g"},
    }
    y = {
        "field": "value",
        "type": "quantitative",
        "scale": {"zero": False, "padding": 12},
        "axis": {"title": heading, "tickCount": 6},
    }
    line: Chart = {
        "transform": [{"filter": "datum.front"}],
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.5,
                 "color": "$series0"},
        "encoding": {"x": x, "y": y, "order": {"field": "latency", "type": "quantitative"}},
    }  # fmt: skip
    intervals: Chart = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "rule", "strokeWidth": 1, "opacity": 0.35, "color": "$series0"},
        "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
    }
    marks: Chart = {
        "mark": {"type": "point", "filled": True, "size": 70, "color": "$series0"},
        "encoding": {
            "x": x,
            "y": y,
            "opacity": {"condition": {"test": "datum.front", "value": 1}, "value": 0.4},
            "tooltip": [
                {"field": "method"},
                {"field": "value", "title": heading, "format": ".3f"},
                {"field": "latency", "title": latency, "format": ".4~g"},
            ],
        },
    }
    names: Chart = {
        "mark": {"type": "text", "align": "left", "dx": 7, "dy": -7, "fontSize": 11,
                 "color": "$ink"},
        "encoding": {"x": x, "y": y, "text": {"field": "method"}},
    }  # fmt: skip
    layers = [
        *([line] if sum(p["front"] for p in points) > 1 else []),
        *([intervals] if any("low" in p for p in points) else []),
        marks,
        names,
    ]
    return {
        "width": "container",
        "height": 280,
        "description": f"{heading} over latency; the line joins methods that none beats in both",
        "data": {"values": points},
        "layer": layers,
    }

"""The plots as Vega-Lite specifications.

Colours are given by name (`$good`, or a place in the page's palette): the page fills them in for
light and for dark, and draws again when the theme changes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from toolkit.reporting.curves import histogram, roc_points

if TYPE_CHECKING:
    from toolkit.reporting.collect import Shown
    from toolkit.reporting.gallery import Answers
    from toolkit.runs.run import Run

PRO_LIMIT = 0.3
_NO_CURVE = {"epoch", "seconds", "lr"}
_VALUE_TITLES = {"losses": "loss", "figures": "value"}
_PHASE = re.compile(r"^(train|val|test)_(.+)$")

Chart: TypeAlias = dict[str, Any]
Points: TypeAlias = list[tuple[float, float]]


def roc_chart(methods: Sequence[Shown]) -> Chart | None:
    """Recall over false-alarm rate, one line per method; None where no method has one."""
    lines = {m.name: roc_points(m.scores, m.is_defect) for m in methods}
    return _curve_chart(
        lines,
        names=[m.name for m in methods],
        x="false-alarm rate (good images flagged)",
        y="recall (defective images flagged)",
        x_end=1.0,
        description="ROC curves of the image-level scores, one line per method",
    )


def pro_chart(methods: Sequence[Shown], answers: Mapping[str, Answers]) -> Chart | None:
    """Per-region overlap over false-positive rate; None where no method gives anomaly maps."""
    return _curve_chart(
        {m.name: _up_to(answers[m.name].pro, PRO_LIMIT) for m in methods},
        names=[m.name for m in methods],
        x="false-positive rate (good pixels flagged)",
        y="mean overlap with the true regions",
        x_end=PRO_LIMIT,
        description="Per-region overlap of the anomaly maps up to a false-positive rate of 0.3",
    )


def score_chart(shown: Shown) -> Chart:
    """How many good and defective images got which score, with the thresholds of the folds."""
    lines = [{"threshold": t} for t in sorted({t for t in shown.thresholds if t is not None})]
    counted = histogram(shown.scores, shown.is_defect)
    bars: Chart = {
        "data": {"values": counted},
        "mark": {"type": "bar", "binSpacing": 1},
        "encoding": {
            "x": {
                "field": "low",
                "type": "quantitative",
                "bin": {"binned": True},
                "axis": {"title": "image score", "grid": False, "tickCount": 5},
                "scale": {"zero": False},
            },
            "x2": {"field": "high"},
            "y": {
                "field": "count",
                "type": "quantitative",
                "stack": "zero",
                "axis": {"title": "images", "values": _whole_ticks(counted), "format": "d"},
            },
            "color": {
                "field": "truth",
                "type": "nominal",
                "scale": {"domain": ["good", "defect"], "range": ["$good", "$defect"]},
                "legend": None,
            },
            "tooltip": [
                {"field": "truth"},
                {"field": "count", "title": "images"},
                {"field": "low", "title": "score from", "format": ".4~g"},
                {"field": "high", "title": "to", "format": ".4~g"},
            ],
        },
    }
    rule: Chart = {
        "data": {"values": lines},
        "mark": {"type": "rule", "strokeDash": [5, 3], "strokeWidth": 1.5, "color": "$ink"},
        "encoding": {
            "x": {"field": "threshold", "type": "quantitative"},
            "tooltip": [{"field": "threshold", "format": ".4~g"}],
        },
    }
    return chart(
        {"layer": [bars, rule] if lines else [bars]},
        height=150,
        description=f"Histogram of the image scores of {shown.name}, good and defective apart",
    )


def learning_charts(runs: Sequence[Run]) -> list[tuple[str, Chart]]:
    """Return `(what, chart)` for the losses and for the other figures of `results.csv`."""
    points: dict[str, list[dict[str, Any]]] = {"losses": [], "figures": []}
    for run in runs:
        fold = run.record["split"]["fold"]
        for row in run.results():
            epoch = _number(row.get("epoch"))
            for column, text in row.items():
                value = _number(text)
                if epoch is None or value is None or column in _NO_CURVE:
                    continue
                phase, name = _named(column)
                point = {"epoch": epoch, "value": value, "what": name, "on": phase, "fold": fold}
                points["losses" if "loss" in column else "figures"].append(point)
    charts = []
    for what, values in points.items():
        # A single epoch is no curve.
        if len({p["epoch"] for p in values}) > 1:
            charts.append((what, _learning_chart(what, values)))
    return charts


def _curve_chart(
    lines: Mapping[str, Points | None],
    *,
    names: Sequence[str],
    x: str,
    y: str,
    x_end: float,
    description: str,
) -> Chart | None:
    drawn = [name for name in names if lines[name]]
    if not drawn:
        return None
    values = [
        {"method": name, "x": x_value, "y": y_value, "at": at}
        for name in drawn
        for at, (x_value, y_value) in enumerate(lines[name] or [])
    ]
    picked = {"condition": {"param": "picked", "value": 1, "empty": True}, "value": 0.12}
    return chart(
        {
            "data": {"values": values},
            # A click on a name in the legend lifts that line out of those that cover it.
            "params": [
                {"name": "picked", "select": {"type": "point", "fields": ["method"]},
                 "bind": "legend"}
            ],
            "mark": {"type": "line", "strokeWidth": 2, "interpolate": "linear",
                     "strokeJoin": "round"},
            "encoding": {
                "x": {"field": "x", "type": "quantitative", "scale": {"domain": [0, x_end]},
                      "axis": {"title": x, "tickCount": 6}},
                "y": {"field": "y", "type": "quantitative", "scale": {"domain": [0, 1]},
                      "axis": {"title": y, "tickCount": 6}},
                "order": {"field": "at", "type": "quantitative"},
                "color": {
                    "field": "method",
                    "type": "nominal",
                    "scale": {"domain": drawn, "range": palette(drawn, names)},
                    "legend": {"title": None},
                },
                "strokeDash": {
                    "field": "method",
                    "type": "nominal",
                    "scale": {"domain": drawn, "range": _dashes(drawn, names)},
                    "legend": {"title": None},
                },
                "opacity": picked,
                "tooltip": [
                    {"field": "method"},
                    {"field": "x", "title": x, "format": ".3f"},
                    {"field": "y", "title": y, "format": ".3f"},
                ],
            },
        },
        height=320,
        description=description,
    )  # fmt: skip


def _learning_chart(what: str, values: list[dict[str, Any]]) -> Chart:
    several = len({p["fold"] for p in values}) > 1
    phases = [phase for phase in ("train", "val", "test", "") if any(p["on"] == phase for p in
                                                                  values)]  # fmt: skip
    dashes = {"train": [4, 3], "val": [1, 0], "test": [8, 3], "": [1, 0]}
    return chart(
        {
            "data": {"values": values},
            "mark": {"type": "line", "strokeWidth": 1.6, "opacity": 0.55 if several else 1},
            "encoding": {
                "x": {"field": "epoch", "type": "quantitative", "scale": {"nice": False},
                      "axis": {"title": "epoch", "grid": False, **_epoch_ticks(values)}},
                "y": {"field": "value", "type": "quantitative",
                      "axis": {"title": _VALUE_TITLES[what], "tickCount": 5}},
                "color": {"field": "what", "type": "nominal", "legend": {"title": None}},
                "strokeDash": {
                    "field": "on",
                    "type": "nominal",
                    "scale": {"domain": phases, "range": [dashes[p] for p in phases]},
                    "legend": {"title": None} if len(phases) > 1 else None,
                },
                "detail": {"field": "fold", "type": "nominal"},
                "tooltip": [
                    {"field": "what"},
                    {"field": "on"},
                    {"field": "epoch"},
                    {"field": "value", "format": ".4~g"},
                    {"field": "fold"},
                ],
            },
        },
        height=190,
        description=f"Learning curves: {what} over epochs",
    )  # fmt: skip


def chart(content: Chart, *, height: int, description: str) -> Chart:
    """Make a specification as wide as its place, with a description for those who cannot see it."""
    return {"width": "container", "height": height, "description": description, **content}


def _epoch_ticks(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Few epochs would be given halves."""
    epochs = sorted({p["epoch"] for p in points})
    return {"values": epochs, "format": "d"} if len(epochs) <= 12 else {"format": "d"}


def _whole_ticks(bars: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return about five ticks for stacked counts; half an image is no tick."""
    heights: dict[float, int] = {}
    for bar in bars:
        heights[bar["low"]] = heights.get(bar["low"], 0) + bar["count"]
    highest = max(heights.values())
    return list(range(0, highest + 1, max(1, math.ceil(highest / 5))))


def _up_to(points: Points | None, end: float) -> Points:
    """Cut a rising curve at `end`, with a point there."""
    kept = [point for point in points or [] if point[0] <= end]
    if not kept or len(kept) == len(points or []):
        return kept
    (x0, y0), (x1, y1) = kept[-1], (points or [])[len(kept)]
    return [*kept, (end, round(y0 + (y1 - y0) * (end - x0) / (x1 - x0), 6))]


def palette(drawn: Sequence[str], names: Sequence[str]) -> list[str]:
    """Give a method its colour, the same in every plot, whichever methods are drawn there."""
    return [f"$series{list(names).index(name) % SERIES}" for name in drawn]


def _dashes(drawn: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    styles = ([1, 0], [6, 3], [2, 2])
    return [styles[list(names).index(name) // SERIES % len(styles)] for name in drawn]


SERIES = 8
"""Colours of the page's palette; more methods than that also differ in their dashes."""


def _named(column: str) -> tuple[str, str]:
    found = _PHASE.match(column)
    phase, name = (found[1], found[2]) if found else ("", column)
    return phase, name.replace("_", " ")


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None

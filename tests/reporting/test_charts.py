"""Plots of metrics over the number of labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toolkit.metrics.values import Undefined
from toolkit.reporting.charts import budget_charts


def method(name: str, budget: Any, labels: int, **values: Any) -> Any:
    """Stand in for one row of the report."""
    metadata = {"budget": budget, "base_entry": name, "labels": {"train": labels}}
    if budget is None:
        del metadata["budget"]
    row = SimpleNamespace(
        entry=f"{name} k={budget}",
        values=values,
        intervals={"auroc": {"low": 0.8, "high": 1.0}},
        seed=0,
    )
    run = SimpleNamespace(metadata=metadata, path=Path())
    return SimpleNamespace(row=row, runs=[SimpleNamespace(run=run)])


def points(chart: Any) -> list[Any]:
    found: list[Any] = chart["data"]["values"]
    return found


def _colours(chart: Any) -> Any:
    return chart["layer"][-1]["encoding"]["color"]["scale"]


def test_one_chart_for_each_figure_that_a_method_has() -> None:
    none = Undefined("no anomaly map")
    charts = budget_charts(
        [
            method("a", 1, 3, auroc=0.9, aupro=none),
            method("a", "all", 37, auroc=0.95, aupro=none),
            method("b", 0, 0, auroc=0.97, aupro=0.9),
        ]
    )
    assert list(charts) == ["auroc", "aupro"]
    assert [(p["method"], p["labels"], p["value"]) for p in points(charts["auroc"])] == [
        ("a", 3, 0.9),
        ("a", 37, 0.95),
        ("b", 0, 0.97),
    ]
    assert [p["method"] for p in points(charts["aupro"])] == ["b"]
    # A method keeps its colour where another one is missing.
    assert len({str(_colours(chart)) for chart in charts.values()}) == 1
    # Of AUPRO this row has no interval.
    assert all("low" in p for p in points(charts["auroc"]))
    assert not any("low" in p for p in points(charts["aupro"]))


@pytest.mark.parametrize(
    ("budgets", "flat"),
    [
        # good-only: there is but one point, and it holds for every number of labels
        ([0], True),
        # learns from none too, and from more
        ([0, 1], False),
        # a single budget that is not none
        ([5], False),
    ],
)
def test_a_method_without_labels_is_a_line_all_along(budgets: list[int], flat: bool) -> None:
    chart = budget_charts([method("a", k, 3 * k, auroc=0.9) for k in budgets])["auroc"]
    assert {p["flat"] for p in points(chart)} == {flat}


def test_ticks_stand_at_the_numbers_of_labels() -> None:
    chart = budget_charts([method("a", k, n, auroc=0.9) for k, n in ((2, 6), (1, 3), ("all", 37))])
    axis = chart["auroc"]["layer"][0]["encoding"]["x"]["axis"]
    assert axis["values"] == [3, 6, 37]


def test_no_budgets_no_chart() -> None:
    assert budget_charts([method("a", None, 37, auroc=0.9)]) == {}

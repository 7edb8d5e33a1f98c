"""Quality against latency."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from toolkit.metrics.values import Undefined
from toolkit.reporting.pareto import front, pareto_charts


def method(name: str, **values: Any) -> Any:
    """Stand in for one row of the report."""
    row = SimpleNamespace(values=values, intervals={"auroc": {"low": 0.8, "high": 1.0}})
    return SimpleNamespace(name=name, row=row)


def test_methods_that_none_beats_are_on_the_line() -> None:
    charts = pareto_charts(
        [
            method("slow", auroc=0.9, latency=100.0, map50=0.5),
            method("fast", auroc=0.8, latency=10.0),
            method("best", auroc=0.95, latency=50.0, aupro=Undefined("no maps")),
            method("unknown", auroc=0.99, latency=Undefined("not measured")),
        ]
    )
    assert list(charts) == ["auroc"]  # one method alone has map50
    points = {p["method"]: p["front"] for p in charts["auroc"]["data"]["values"]}
    assert points == {"slow": False, "fast": True, "best": True}
    assert len(charts["auroc"]["layer"]) == 4


def test_equal_methods_are_both_on_the_front() -> None:
    assert front([(1, 0.5), (1, 0.5), (1, 0.4), (2, 0.5)]) == [True, True, False, False]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_every_point_is_on_the_front_or_beaten_by_one_that_is(points: list[Any]) -> None:
    kept = [p for p, best in zip(points, front(points), strict=True) if best]
    assert kept
    for latency, quality in points:
        assert any(x <= latency and y >= quality for x, y in kept)
    for (x0, y0), (x1, y1) in ((a, b) for a in kept for b in kept if a < b):
        assert y0 < y1 or (x0, y0) == (x1, y1)

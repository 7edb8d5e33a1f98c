"""Points of curves: each is exact, and the area below equals the metric."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.metrics.pixel import pixel_metrics
from toolkit.metrics.roc import alarm_curve, auroc
from toolkit.reporting.curves import ProCurve, histogram, roc_points, sample_map


def area(points: list[tuple[float, float]]) -> float:
    x, y = np.array(points).T
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_the_area_below_roc_is_auroc(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([p[0] for p in pairs], np.float64)  # few values: many ties
    truth = np.array([p[1] for p in pairs])
    points = roc_points(scores, truth)
    if truth.all() or not truth.any():
        assert points is None
        return
    assert points is not None
    assert points[0] == (0, 0)
    assert points[-1] == (1, 1)
    assert area(points) == pytest.approx(float(auroc(alarm_curve(scores, truth))), abs=1e-12)
    for (x0, y0), (x1, y1), (x2, y2) in zip(points, points[1:], points[2:], strict=False):
        assert abs((x1 - x0) * (y2 - y1) - (x2 - x1) * (y1 - y0)) > 1e-12  # corners only


def test_a_perfect_ranking_has_one_corner() -> None:
    scores, truth = np.arange(10.0), np.arange(10) >= 6
    assert roc_points(scores, truth) == [(0, 0), (0, 1), (1, 1)]


def maps(seed: int, n: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(seed)
    pairs = []
    for i in range(n):
        truth = np.zeros((60, 80), np.bool_)
        if i:
            truth[10 : 10 + 5 * i, 20:40] = True
            truth[50, 70] = True  # a region of one pixel
        noise = random.normal(0, 1, truth.shape)
        pairs.append((np.round(noise + 1.5 * truth, 2).astype(np.float32), truth))
    return pairs


def curve_of(pairs: list[tuple[np.ndarray, np.ndarray]]) -> ProCurve:
    curve = ProCurve(sample_map(m) for m, _ in pairs)
    for anomaly_map, truth in pairs:
        curve.add(anomaly_map, truth)
    return curve


@pytest.mark.parametrize("seed", range(3))
def test_pro_points_are_exact(seed: int) -> None:
    pairs = maps(seed)
    curve = curve_of(pairs)
    points = curve.points()
    assert points is not None
    good = np.concatenate([m[~t] for m, t in pairs])
    regions = []
    for m, t in pairs[1:]:
        dot = np.zeros_like(t)
        dot[50, 70] = True
        regions += [m[t & ~dot], m[dot]]
    for threshold in curve._thresholds[::25]:
        rate = round(float((good >= threshold).mean()), 6)
        overlap = round(float(np.mean([(r >= threshold).mean() for r in regions])), 6)
        assert any(x == rate and abs(y - overlap) < 2e-6 for x, y in points)


@pytest.mark.parametrize("limit", [0.3, 1.0])
def test_the_area_below_pro_is_aupro(limit: float) -> None:
    pairs = maps(7, n=8)
    points = curve_of(pairs).points()
    assert points is not None
    xs, ys = np.array(points).T
    assert (np.diff(xs) >= 0).all()
    assert (np.diff(ys) >= 0).all()
    inside = [(x, y) for x, y in points if x <= limit]
    found = area([*inside, (limit, float(np.interp(limit, xs, ys)))]) / limit
    expected = pixel_metrics(pairs, limits=[limit]).aupro[limit]
    assert found == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_flat_maps(value: float) -> None:
    truth = np.zeros((8, 8), np.bool_)
    truth[2:4, 2:4] = True
    flat = np.full((8, 8), value, np.float32)
    assert curve_of([(flat, truth)]).points() == [(0.0, 0.0), (1.0, 1.0)]


def test_no_region_no_curve() -> None:
    assert curve_of(maps(0, n=1)).points() is None
    everywhere = np.ones((4, 4), np.bool_)
    assert curve_of([(np.ones((4, 4), np.float32), everywhere)]).points() is None


@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0], [0.0, 5.0, 5.0], [-1e6, 0.0, 1e6]])
def test_histogram_counts_every_image_once(scores: list[float]) -> None:
    truth = np.array([False, True, True])
    bars = histogram(np.array(scores), truth)
    counted = {t: sum(b["count"] for b in bars if b["truth"] == t) for t in ("good", "defect")}
    assert counted == {"good": 1, "defect": 2}
    assert all(b["low"] < b["high"] for b in bars)

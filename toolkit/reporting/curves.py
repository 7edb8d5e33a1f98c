"""Points of the plots: ROC of images, per-region overlap of pixels, histograms of scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.metrics.pro import label_regions
from toolkit.metrics.rank_counter import RankCounter
from toolkit.metrics.roc import alarm_curve

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRIDE = 7
# Shares of pixels above the thresholds: dense in the range of AUPRO, and at the very top.
_SHARES = np.unique(np.concatenate([np.linspace(0, 0.36, 181), np.geomspace(1e-6, 1, 60)]))
BINS = 24


def roc_points(
    scores: NDArray[np.float64], is_defect: NDArray[np.bool_]
) -> list[tuple[float, float]] | None:
    """Return the corners of the ROC curve as (false-positive rate, recall), both from 0 to 1.

    Equal scores make one sloped segment, so the area is the AUROC. None if a class is missing.

    Args:
        scores: float64 (n,), higher is worse.
        is_defect: bool (n,).
    """
    if is_defect.all() or not is_defect.any():
        return None
    curve = alarm_curve(scores, is_defect)
    x, y = [0, *curve.fp.tolist()], [0, *curve.tp.tolist()]
    corners = [
        i
        for i in range(len(x))
        if i in (0, len(x) - 1)
        # Drop points on the line between their neighbours (integers, so this is exact).
        or (x[i] - x[i - 1]) * (y[i + 1] - y[i]) != (x[i + 1] - x[i]) * (y[i] - y[i - 1])
    ]
    return [(x[i] / x[-1], y[i] / y[-1]) for i in corners]


def sample_map(anomaly_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return every seventh value of an anomaly map, and its maximum, for `ProCurve`."""
    return np.append(anomaly_map.ravel()[::_STRIDE], anomaly_map.max()).astype(np.float32)


class ProCurve:
    """Per-region overlap curve, counted map by map.

    Regions, false-positive rate and averaging are those of `toolkit.metrics.pro`. Each point is
    exact; about three hundred thresholds are used, with straight lines between them.

    Args:
        map_values: results of `sample_map`; thresholds are placed at their quantiles.
    """

    def __init__(self, map_values: Iterable[NDArray[np.float32]]) -> None:
        values = np.concatenate(list(map_values))
        placed = np.quantile(values, 1 - _SHARES).astype(np.float32)
        self._thresholds = np.unique(np.append(placed, np.sort(values)[-60:]))
        self._good = RankCounter(self._thresholds)
        self._n_good = 0
        self._overlap = np.zeros(self._thresholds.size)
        self._n_regions = 0

    def add(self, anomaly_map: NDArray[np.float32], truth: NDArray[np.bool_]) -> None:
        """Count one image: anomaly map float32 (H, W), true mask bool (H, W)."""
        flat = anomaly_map.ravel()
        good = flat[~truth.ravel()]
        self._good.add(good)
        self._n_good += good.size
        where, regions = label_regions(truth)
        for region in range(int(regions.max()) + 1 if regions.size else 0):
            inside = np.sort(flat[where[regions == region]])
            below = np.searchsorted(inside, self._thresholds, side="left")
            self._overlap += 1 - below / inside.size
            self._n_regions += 1

    def points(self) -> list[tuple[float, float]] | None:
        """Return (false-positive rate, mean overlap), rates ascending; None without regions."""
        if not self._n_regions or not self._n_good:
            return None
        below, _ = self._good.counts()
        rate = (self._n_good - below[::-1]) / self._n_good
        overlap = self._overlap[::-1] / self._n_regions
        points = [(0.0, 0.0), *zip(rate.tolist(), overlap.tolist(), strict=True), (1.0, 1.0)]
        return list(dict.fromkeys((round(x, 6), round(min(y, 1.0), 6)) for x, y in points))


def histogram(scores: NDArray[np.float64], is_defect: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Count scores in equal bins: `low`, `high`, `truth` and `count` of each non-empty bin."""
    edges = np.histogram_bin_edges(scores, bins=BINS)
    bars = []
    for truth, chosen in (("good", ~is_defect), ("defect", is_defect)):
        counts, _ = np.histogram(scores[chosen], bins=edges)
        bars += [
            {"low": float(edges[i]), "high": float(edges[i + 1]), "truth": truth, "count": int(n)}
            for i, n in enumerate(counts)
            if n
        ]
    return bars

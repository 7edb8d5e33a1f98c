"""Significant differences between rows, by the paired bootstrap on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.data.types import GOOD
from toolkit.leaderboards.columns import column, value_at
from toolkit.leaderboards.model import Difference, Row
from toolkit.leaderboards.rows import EntryMetrics
from toolkit.metrics.bootstrap import (
    Interval,
    image_resamples,
    interval_of,
    resample_counts,
    seed_shares,
)
from toolkit.metrics.box_bootstrap import Detections, map50_resamples
from toolkit.metrics.classification import classification_resamples
from toolkit.metrics.values import Undefined


def resampled_values(
    entries: Sequence[Sequence[EntryMetrics]], sort: str
) -> list[NDArray[np.float64] | None]:
    """Return one column of each row on the resamples that the rows share.

    Args:
        entries: the rows, each with its seeds.
        sort: name of the column.

    Returns:
        float64[resamples] per row; None where the column cannot be resampled.
    """
    resamples = _Resamples(entries, sort)
    return [resamples.values(seeds) for seeds in entries]


def differences(entries: Sequence[Sequence[EntryMetrics]], sort: str) -> tuple[Difference, ...]:
    """Compare each two rows of a group in one column.

    All rows are scored on the same resamples of the test images (of the regions for AUPRO), drawn
    within each defect type. Several seeds are weighted anew in each resample (`seed_shares`), so
    that an interval counts the spread between trainings as well as that between images. Rows with
    as many seeds have the same weights: what a seed does to both is no difference between them. The
    interval of a row with one seed knows nothing of the spread between trainings.

    Args:
        entries: the rows in their order, each with its seeds.
        sort: name of the column.

    Returns:
        One per pair that can be compared; none where the column cannot be resampled.
    """
    resamples = _Resamples(entries, sort)
    resampled = [resamples.values(seeds) for seeds in entries]
    found = []
    for i, j in combinations(range(len(entries)), 2):
        one, other = resampled[i], resampled[j]
        if one is None or other is None or resamples.counts is None:
            continue
        interval = interval_of(one - other, resamples.counts)
        figures = _mean(entries[i], sort), _mean(entries[j], sort)
        if isinstance(interval, Interval) and figures[0] is not None and figures[1] is not None:
            value = figures[0] - figures[1]
            found.append(
                Difference(first=i, second=j, value=value, low=interval.low, high=interval.high)
            )
    return tuple(found)


def rank_rows(rows: Sequence[Row], found: Sequence[Difference], sort: str) -> tuple[Row, ...]:
    """Number rows by their value in a column, and mark those that may be as good as the best.

    Args:
        rows: best first.
        found: their differences in this column.
        sort: name of the column.

    Returns:
        The rows with `rank` and `in_top_group`. Equal values share a rank, and the next rank counts
        all rows above: 1, 1, 3.
    """
    sign = -1 if column(sort).lower_is_better else 1
    values = [row.values[sort] for row in rows]
    known = [sign * value for value in values if not isinstance(value, Undefined)]
    tested = {one.second: one for one in found if one.first == 0}
    return tuple(
        replace(
            row,
            rank=None
            if isinstance(value, Undefined)
            else 1 + sum(other > sign * value for other in known),
            in_top_group=bool(tested) if i == 0 else i in tested and not tested[i].significant,
        )
        for i, (row, value) in enumerate(zip(rows, values, strict=True))
    )


class _Resamples:
    """The resamples that all rows of a group share, and the values of one column on them."""

    def __init__(self, entries: Sequence[Sequence[EntryMetrics]], sort: str) -> None:
        self._path, self._metric = column(sort).path, column(sort).interval
        first = self._units(entries[0][0]) if entries and self._metric else None
        self._ids: list[Any] = first["ids"] if first else []
        self.counts: NDArray[np.int64] | None = None
        if first:
            self._defect = np.array([name != GOOD for name in first["types"]], np.bool_)
            self.counts = resample_counts(first["types"])

    def values(self, seeds: Sequence[EntryMetrics]) -> NDArray[np.float64] | None:
        """Return the weighted mean over the seeds on each resample, float64[resamples]."""
        found = [self._of_one(one) for one in seeds]
        known = [value for value in found if value is not None]
        if not known or len(known) < len(found):
            return None
        shares = seed_shares(len(known), n_resamples=len(known[0]))
        return np.asarray(np.einsum("rs,sr->r", shares, np.stack(known)))

    def _of_one(self, one: EntryMetrics) -> NDArray[np.float64] | None:
        units = self._units(one)
        if units is None or self.counts is None or sorted(units["ids"]) != sorted(self._ids):
            return None
        place = {name: i for i, name in enumerate(units["ids"])}
        order = [place[name] for name in self._ids]
        if self._path.startswith("image."):
            scores = np.array(units["scores"], np.float64)[order]
            flags = np.array(units["flagged"], np.bool_)[order] if "flagged" in units else None
            values = image_resamples(scores, self._defect, self.counts, is_flagged=flags)
            value = values.get(self._metric)
            return None if value is None or isinstance(value, Undefined) else value
        if self._path.startswith("classification."):
            return self._of_classes(units, order, self._metric.split(".", 1)[1], self.counts)
        if self._path == "boxes.map50":
            return self._of_boxes(one, order, self.counts)
        listed = units.get(self._metric)
        if listed is None:
            return None
        # A unit without a value (a good image has no IoU) weighs nothing.
        numbers = [np.nan if listed[i] is None else listed[i] for i in order]
        by_unit = np.array(numbers, np.float64)
        has = ~np.isnan(by_unit)
        weight = self.counts @ has
        if not weight.all():
            return None
        return np.asarray(self.counts @ np.where(has, by_unit, 0.0) / weight)

    @staticmethod
    def _of_classes(
        units: Mapping[str, Any], order: Sequence[int], metric: str, counts: NDArray[np.int64]
    ) -> NDArray[np.float64] | None:
        if "pred_classes" not in units:
            return None
        lists = [[units[key][i] for i in order] for key in ("true_classes", "pred_classes")]
        names = sorted({name for listed in lists for name in listed})
        true, predicted = ([names.index(name) for name in listed] for listed in lists)
        return classification_resamples(true, predicted, counts, class_names=names).get(metric)

    @staticmethod
    def _of_boxes(
        one: EntryMetrics, order: Sequence[int], counts: NDArray[np.int64]
    ) -> NDArray[np.float64] | None:
        found = one.metrics.get("detections")
        if not isinstance(found, Mapping):
            return None
        detections = Detections(**{key: np.asarray(listed) for key, listed in found.items()})
        by_image = np.empty_like(counts)  # in the order in which the run has its images
        by_image[:, order] = counts
        return map50_resamples(detections, by_image)

    def _units(self, one: EntryMetrics) -> Mapping[str, Any] | None:
        found = one.metrics.get("regions" if self._path.startswith("pixel.") else "images")
        whole = isinstance(found, Mapping) and "ids" in found and "types" in found
        return found if whole else None


def _mean(seeds: Sequence[EntryMetrics], sort: str) -> float | None:
    values = [value_at(one.metrics, column(sort).path) for one in seeds]
    known = [value for value in values if not isinstance(value, Undefined)]
    return float(np.mean(known)) if known else None

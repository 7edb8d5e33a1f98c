"""Pixel-level metrics of anomaly maps, over all pixels of all images.

Exact, yet without sorting all pixels. Every metric here depends only on the number of good pixels
above each distinct score of a defect pixel. So the defect pixels, a few percent, are collected and
sorted first; then all pixels are counted against them map by map (`RankCounter`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from toolkit.metrics.pro import gain_per_pixel, label_regions
from toolkit.metrics.rank_counter import PART, RankCounter
from toolkit.metrics.values import MetricError, Undefined, Value

NO_DEFECT = Undefined("no defect pixels")
NO_GOOD = Undefined("no good pixels")
AUPRO_LIMITS = (0.3, 0.05)

Pairs: TypeAlias = Iterable[tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]]


@dataclass(frozen=True)
class RegionMetrics:
    """The contribution of each region to the pixel-level metrics, in the order of the images.

    AUROC over all pixels is the mean of `auroc` weighted by `n_pixels`, AUPRO the plain mean of
    `aupro`: over some of the regions, they are the metrics of a type or a size of defect, measured
    against all good pixels. Empty where there are no good pixels.

    Attributes:
        image: int[r], place of the region's image among the pairs.
        n_pixels: int[r].
        share: float[r], of the image's area.
        auroc: float[r], chance that a pixel of the region scores above a good one.
        aupro: float[r] by limit, area under the region's own overlap curve.
    """

    image: NDArray[np.int64]
    n_pixels: NDArray[np.int64]
    share: NDArray[np.float64]
    auroc: NDArray[np.float64]
    aupro: Mapping[float, NDArray[np.float64]]


@dataclass(frozen=True)
class PixelMetrics:
    """Pixel-level metrics of one method on one set of images.

    Attributes:
        n_images: number of anomaly maps.
        n_good, n_defect: number of pixels outside and inside the masks.
        n_regions: number of 8-connected regions of the masks.
        auroc: area under the ROC curve over all pixels, ties counted half.
        average_precision: area under the precision-recall curve, not interpolated.
        f1_max: best F1 over all thresholds. Chosen on these very images, hence optimistic.
        f1_max_threshold: the (highest) score that gives it; a pixel is flagged at or above it.
        aupro: area under the per-region-overlap curve, by limit of the false-positive rate.
        regions: region by region.
    """

    n_images: int
    n_good: int
    n_defect: int
    n_regions: int
    auroc: Value
    average_precision: Value
    f1_max: Value
    f1_max_threshold: Value
    aupro: Mapping[float, Value]
    regions: RegionMetrics = field(compare=False)


def pixel_metrics(pairs: Pairs, *, limits: Iterable[float] = AUPRO_LIMITS) -> PixelMetrics:
    """Anomaly maps against masks.

    The pairs are read twice and not kept, so an object whose `__iter__` reads them from disk needs
    memory for one map and about 30 bytes per defect pixel. A one-shot iterator, such as a
    generator, is read once and kept.

    Args:
        pairs: (anomaly map float32[H, W], higher is worse, mask bool[H, W]); sizes may differ from
            pair to pair. Maps of other float types are rounded to float32.
        limits: false-positive rates up to which AUPRO is taken, each in (0, 1].

    Raises:
        MetricError: a map and its mask differ in shape, a score is NaN or infinite, a mask is not
            boolean, or a limit lies outside (0, 1].
    """
    limits = tuple(limits)
    for limit in limits:
        if not 0.0 < limit <= 1.0:
            raise MetricError(f"AUPRO limit {limit}: give a false-positive rate above 0, at most 1")
    if iter(pairs) is pairs:
        pairs = list(pairs)
    pixels = _collect(pairs)
    n_defect = pixels.packed.size
    n_good = pixels.n_pixels - n_defect
    if n_defect:
        sums = _sums(pixels, _count(pairs, pixels), n_good, limits)
    else:
        sums = _Sums.without(NO_DEFECT, limits)
    return PixelMetrics(
        n_images=pixels.n_images,
        n_good=n_good,
        n_defect=n_defect,
        n_regions=pixels.region_sizes.size,
        auroc=sums.auroc,
        average_precision=sums.average_precision,
        f1_max=sums.f1_max,
        f1_max_threshold=sums.f1_max_threshold,
        aupro=sums.aupro,
        regions=sums.regions,
    )


@dataclass(frozen=True)
class _Pixels:
    """Totals, and uint64[d]: of each defect pixel the sortable score (high half) and region."""

    n_images: int
    n_pixels: int
    packed: NDArray[np.uint64]
    region_sizes: NDArray[np.int64]
    region_images: NDArray[np.int64]
    region_shares: NDArray[np.float64]


@dataclass(frozen=True)
class _Sums:
    """The metrics that rest on counts at each distinct score of a defect pixel."""

    auroc: Value
    average_precision: Value
    f1_max: Value
    f1_max_threshold: Value
    aupro: Mapping[float, Value]
    regions: RegionMetrics

    @classmethod
    def without(cls, reason: Undefined, limits: Iterable[float]) -> _Sums:
        """Return the metrics of no defect pixels."""
        none, no_value = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
        regions = RegionMetrics(none, none, no_value, no_value, dict.fromkeys(limits, no_value))
        return cls(reason, reason, reason, reason, dict.fromkeys(limits, reason), regions)


def _collect(pairs: Pairs) -> _Pixels:
    """Check all maps and gather the defect pixels."""
    n_images = n_pixels = n_regions = 0
    packed: list[NDArray[np.uint64]] = []
    sizes: list[NDArray[np.int64]] = []
    images: list[int] = []
    shares: list[NDArray[np.float64]] = []
    for index, (anomaly_map, mask) in enumerate(pairs):
        if mask.dtype != np.bool_:
            raise MetricError(
                f"mask {index} is of type {mask.dtype}: threshold it to boolean first"
            )
        if anomaly_map.shape != mask.shape or mask.ndim != 2:
            raise MetricError(
                f"anomaly map {index} is {anomaly_map.shape}, its mask {mask.shape}: "
                "bring both to the size of the image"
            )
        scores = _flat(anomaly_map)
        if not np.isfinite(scores).all():
            raise MetricError(f"anomaly map {index} holds NaN or infinite scores")
        where, regions = label_regions(mask)
        if where.size:
            keys = _sortable(scores[where]).astype(np.uint64)
            packed.append((keys << np.uint64(32)) | (regions + n_regions).astype(np.uint64))
            sizes.append(np.bincount(regions))
            n_regions += sizes[-1].size
            images += [index] * sizes[-1].size
            shares.append(sizes[-1] / mask.size)
        n_images += 1
        n_pixels += mask.size
    return _Pixels(
        n_images=n_images,
        n_pixels=n_pixels,
        packed=np.concatenate(packed) if packed else np.empty(0, dtype=np.uint64),
        region_sizes=np.concatenate(sizes) if sizes else np.empty(0, dtype=np.int64),
        region_images=np.array(images, dtype=np.int64),
        region_shares=np.concatenate(shares) if shares else np.empty(0, dtype=np.float64),
    )


def _count(pairs: Pairs, pixels: _Pixels) -> RankCounter:
    """Count all pixels at each distinct defect score; sorts `pixels.packed`.

    All pixels are counted, not the good ones alone: taking the defects out costs more than counting
    them along, and how many of them lie above each score is known.
    """
    pixels.packed.sort()
    keys = _keys(pixels.packed)
    counter = RankCounter(_scores(keys[_is_first(keys)]))
    n = 0
    for anomaly_map, _ in pairs:
        counter.add(_flat(anomaly_map))
        n += anomaly_map.size
    if n != pixels.n_pixels:
        raise MetricError("the anomaly maps changed between two readings: write them once")
    return counter


def _sums(pixels: _Pixels, counter: RankCounter, n_good: int, limits: Sequence[float]) -> _Sums:
    """Go down the sorted defect scores, a part of them at a time, and add everything up."""
    packed, sizes = pixels.packed, pixels.region_sizes
    n_defect = packed.size
    wrong_twice, precisions = 0, []
    best, best_threshold = -1.0, 0.0
    share = np.zeros(sizes.size)
    areas = {limit: np.zeros(sizes.size) for limit in limits}
    keys = _keys(packed)
    first = np.flatnonzero(_is_first(keys)).astype(np.uint32 if n_defect < 2**32 else np.int64)
    stop = n_defect
    for part, all_above, all_at_or_above in counter.falling(PART):
        start = int(first[part.start])
        starts = first[part].astype(np.int64)
        ties = np.diff(starts, append=stop)[::-1]
        tp = n_defect - starts[::-1]
        above, at_or_above = all_above - (tp - ties), all_at_or_above - tp
        regions = (packed[start:stop] & np.uint64(0xFFFFFFFF)).astype(np.intp)[::-1]

        wrong_twice += int(np.sum(ties * (above + at_or_above)))
        precisions.append(float(np.sum(ties * (tp / (tp + at_or_above)))))
        # F1 peaks at a score of a defect: between two of them only false alarms are added.
        f1s = 2.0 * tp / (tp + at_or_above + n_defect)
        peak = int(np.argmax(f1s))
        if f1s[peak] > best:
            best = float(f1s[peak])
            best_threshold = float(_scores(keys[int(starts[::-1][peak])][None])[0])
        for limit in limits if n_good else ():
            gain = gain_per_pixel(above=above, at_or_above=at_or_above, n_good=n_good, limit=limit)
            areas[limit] += np.bincount(regions, np.repeat(gain, ties), minlength=sizes.size)
        if n_good:
            ranked = 1.0 - (above + at_or_above) / (2.0 * n_good)
            share += np.bincount(regions, np.repeat(ranked, ties), minlength=sizes.size)
        stop = start
    found = RegionMetrics(
        image=pixels.region_images,
        n_pixels=sizes,
        share=pixels.region_shares,
        auroc=share / sizes,
        aupro={limit: area / sizes for limit, area in areas.items()},
    )
    without = _Sums.without(NO_GOOD, limits)
    return _Sums(
        auroc=1.0 - wrong_twice / (2 * n_good * n_defect) if n_good else NO_GOOD,
        average_precision=math.fsum(precisions) / n_defect,
        f1_max=best,
        f1_max_threshold=best_threshold,
        aupro={limit: math.fsum(v) / v.size for limit, v in found.aupro.items()}
        if n_good
        else without.aupro,
        regions=found if n_good else without.regions,
    )


def _keys(packed: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Return the high halves, a view."""
    return packed.view(np.uint32)[1 if sys.byteorder == "little" else 0 :: 2]


def _is_first(keys: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return whether each of the rising keys differs from the one before."""
    first = np.ones(keys.size, dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return first


def _flat(anomaly_map: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    # A float64 beyond float32 becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return anomaly_map.astype(np.float32, copy=False).ravel()


def _sortable(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return uint32 that sort as the floats do: flip negative ones, set the sign of the others."""
    # -0.0 + 0.0 is 0.0: the two tie as scores, but their bits differ.
    bits = (scores + np.float32(0)).view(np.uint32)
    sign = np.uint32(0x80000000)
    return np.where(bits & sign, ~bits, bits | sign)


def _scores(sortable: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Undo `_sortable`."""
    sign = np.uint32(0x80000000)
    return np.where(sortable & sign, sortable ^ sign, ~sortable).view(np.float32)

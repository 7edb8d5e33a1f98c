"""Pixel level: how well score maps find the defects, over all pixels of all images.

Exact, yet without sorting all pixels. Every metric here depends only on the number of good pixels
above each distinct score of a defect pixel. So the defect pixels, a few percent, are collected and
sorted first; then all pixels are counted against them map by map (`RankCounter`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from toolkit.metrics import curve as _curve
from toolkit.metrics.count import RankCounter
from toolkit.metrics.pro import area_under_pro, gain_per_pixel, label_regions
from toolkit.metrics.values import MetricError, Undefined, Value

NO_DEFECT = Undefined("no defect pixels")
NO_GOOD = Undefined("no good pixels")
AUPRO_LIMITS = (0.3, 0.05)

Pairs: TypeAlias = Iterable[tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]]


@dataclass(frozen=True)
class RegionMetrics:
    """What each region adds to the pixel-level metrics, in the order of the images.

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
        n_images: number of score maps.
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
    """Score maps against masks.

    The pairs are read twice and not kept, so an object whose `__iter__` reads them from disk needs
    memory for one map and about 150 bytes per defect pixel (0.4 GB for 83 maps of 900x900, 3 M
    defect pixels). A one-shot iterator, such as a generator, is read once and kept.

    Args:
        pairs: (score map float32[H, W], higher is worse, mask bool[H, W]); sizes may differ from
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
    auroc: Value
    average_precision: Value
    f1_max: Value
    threshold: Value
    aupro: dict[float, Value]
    if n_defect:
        at = _count(pairs, pixels)
        auroc = _auroc(at, n_good) if n_good else NO_GOOD
        # F1 and precision peak at scores of defects: between them only false alarms are added.
        curve = _curve.Curve(at.thresholds, tp=at.tp, fp=at.at_or_above)
        average_precision = float(_curve.average_precision(curve))
        f1s = _curve.f1_scores(curve)
        best = int(np.argmax(f1s))
        f1_max, threshold = float(f1s[best]), float(at.thresholds[best])
        aupro = {
            limit: area_under_pro(
                above=at.above,
                at_or_above=at.at_or_above,
                overlap=at.overlap,
                n_good=n_good,
                limit=limit,
            )
            if n_good
            else NO_GOOD
            for limit in limits
        }
        regions = _by_region(pixels, at, n_good, limits) if n_good else _no_regions(limits)
    else:
        regions = _no_regions(limits)
        auroc = average_precision = f1_max = threshold = NO_DEFECT
        aupro = dict.fromkeys(limits, NO_DEFECT)
    return PixelMetrics(
        n_images=pixels.n_images,
        n_good=n_good,
        n_defect=n_defect,
        n_regions=pixels.region_sizes.size,
        auroc=auroc,
        average_precision=average_precision,
        f1_max=f1_max,
        f1_max_threshold=threshold,
        aupro=aupro,
        regions=regions,
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
class _AtDefects:
    """Counts at each distinct score of a defect pixel, scores falling; see `area_under_pro`."""

    thresholds: NDArray[np.float32]
    tp: NDArray[np.int64]
    above: NDArray[np.int64]
    at_or_above: NDArray[np.int64]
    overlap: NDArray[np.float64]


def _collect(pairs: Pairs) -> _Pixels:
    """Check all maps and gather the defect pixels."""
    n_images = n_pixels = n_regions = 0
    packed: list[NDArray[np.uint64]] = []
    sizes: list[NDArray[np.int64]] = []
    images: list[int] = []
    shares: list[NDArray[np.float64]] = []
    for index, (score_map, mask) in enumerate(pairs):
        if mask.dtype != np.bool_:
            raise MetricError(
                f"mask {index} is of type {mask.dtype}: threshold it to boolean first"
            )
        if score_map.shape != mask.shape or mask.ndim != 2:
            raise MetricError(
                f"score map {index} is {score_map.shape}, its mask {mask.shape}: "
                "bring both to the size of the image"
            )
        scores = _flat(score_map)
        if not np.isfinite(scores).all():
            raise MetricError(f"score map {index} holds NaN or infinite scores")
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


def _count(pairs: Pairs, pixels: _Pixels) -> _AtDefects:
    """Count good and defect pixels at each distinct defect score; sorts `pixels.packed`."""
    pixels.packed.sort()
    falling = pixels.packed[::-1]
    keys = (falling >> np.uint64(32)).astype(np.uint32)
    last_of_tie = np.append(np.flatnonzero(keys[1:] != keys[:-1]), keys.size - 1)
    thresholds = _scores(keys[last_of_tie])
    tp = last_of_tie.astype(np.int64) + 1

    # A pixel of a region adds 1 / (its size * number of regions) to the mean overlap.
    gain = 1.0 / (pixels.region_sizes * float(pixels.region_sizes.size))
    regions = (falling & np.uint64(0xFFFFFFFF)).astype(np.intp)
    overlap = np.minimum(np.cumsum(gain[regions])[last_of_tie], 1.0)
    del regions, keys

    # All pixels are counted, not the good ones alone: taking the defects out costs more than
    # counting them along, and how many of them lie above each score is known.
    counter = RankCounter(thresholds[::-1])
    n = 0
    for score_map, _ in pairs:
        counter.add(_flat(score_map))
        n += score_map.size
    if n != pixels.n_pixels:
        raise MetricError("the score maps changed between two readings: write them once")
    below, at_or_below = counter.counts()
    return _AtDefects(
        thresholds=thresholds,
        tp=tp,
        above=(n - at_or_below)[::-1] - np.append(0, tp[:-1]),
        at_or_above=(n - below)[::-1] - tp,
        overlap=overlap,
    )


def _by_region(
    pixels: _Pixels, at: _AtDefects, n_good: int, limits: Iterable[float]
) -> RegionMetrics:
    """Take the metrics apart; `pixels.packed` is sorted by now."""
    regions = (pixels.packed[::-1] & np.uint64(0xFFFFFFFF)).astype(np.intp)
    ties = np.diff(at.tp, prepend=0)
    sizes = pixels.region_sizes

    def mean(gain: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(regions, weights=np.repeat(gain, ties), minlength=sizes.size) / sizes

    return RegionMetrics(
        image=pixels.region_images,
        n_pixels=sizes,
        share=pixels.region_shares,
        auroc=mean(1.0 - (at.above + at.at_or_above) / (2.0 * n_good)),
        aupro={
            limit: mean(
                gain_per_pixel(
                    above=at.above, at_or_above=at.at_or_above, n_good=n_good, limit=limit
                )
            )
            for limit in limits
        },
    )


def _no_regions(limits: Iterable[float]) -> RegionMetrics:
    none, no_value = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
    return RegionMetrics(none, none, no_value, no_value, dict.fromkeys(limits, no_value))


def _auroc(at: _AtDefects, n_good: int) -> float:
    """Return the share of (defect, good) pairs in the right order, ties counted half."""
    wrong_twice = int(np.sum(np.diff(at.tp, prepend=0) * (at.above + at.at_or_above)))
    return 1.0 - wrong_twice / (2 * n_good * int(at.tp[-1]))


def _flat(score_map: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    # A float64 beyond float32 becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return score_map.astype(np.float32, copy=False).ravel()


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

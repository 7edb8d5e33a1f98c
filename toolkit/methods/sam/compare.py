"""The fine-tuned model beside the untouched one, on the same regions and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.methods.sam.evaluate import RegionResult
from toolkit.metrics.bootstrap import bootstrap_mean
from toolkit.metrics.values import to_json

_SIZES = ((32**2, "small"), (96**2, "medium"), (float("inf"), "large"))
_MEASURES: tuple[str, ...] = ("dice", "boundary_iou")

Pairs = Sequence[tuple[RegionResult, RegionResult]]


def compare(zero_shot: Sequence[RegionResult], tuned: Sequence[RegionResult]) -> dict[str, Any]:
    """Compare two models, region by region.

    Args:
        zero_shot: results of the untouched model for one kind of prompt.
        tuned: results of the fine-tuned model for the same regions, in the same order.

    Returns:
        Mean IoU of both (`zero_shot`, `tuned`), their `difference` with its paired 95 % bootstrap
        `interval` (stratified by defect type), the number of `regions`; `dice` and `boundary_iou`
        of both; means `by_type` of defect and `by_size` of region (COCO's limits: 32 and 96 pixels
        squared); and the `calibration` of both: mean error and bias of the predicted IoU.

    Raises:
        ValueError: the regions are not the same.
    """
    pairs = list(zip(zero_shot, tuned, strict=True))
    if any((a.sample_id, a.region, a.kind) != (b.sample_id, b.region, b.kind) for a, b in pairs):
        raise ValueError("both models must have answered the same prompts")
    difference = [b.iou - a.iou for a, b in pairs]
    return {
        "regions": len(pairs),
        **_means(pairs, "iou"),
        "difference": float(np.mean(difference)),
        "interval": to_json(bootstrap_mean(difference, [b.label for _, b in pairs])),
        **{measure: _means(pairs, measure) for measure in _MEASURES},
        "by_type": _grouped(pairs, lambda r: r.label),
        "by_size": _grouped(pairs, size_of),
        "calibration": {
            "zero_shot": _calibration([a for a, _ in pairs]),
            "tuned": _calibration([b for _, b in pairs]),
        },
    }


def size_of(result: RegionResult) -> str:
    """Return `small`, `medium` or `large`, by the region's true area."""
    return next(name for limit, name in _SIZES if result.area < limit)


def _means(pairs: Pairs, measure: str) -> dict[str, float]:
    return {
        "zero_shot": float(np.mean([getattr(a, measure) for a, _ in pairs])),
        "tuned": float(np.mean([getattr(b, measure) for _, b in pairs])),
    }


def _grouped(pairs: Pairs, key: Callable[[RegionResult], str]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[tuple[RegionResult, RegionResult]]] = {}
    for pair in pairs:
        groups.setdefault(key(pair[1]), []).append(pair)
    return {
        name: {"regions": len(members), **_means(members, "iou")}
        for name, members in sorted(groups.items())
    }


def _calibration(results: Sequence[RegionResult]) -> dict[str, float]:
    error: NDArray[np.float64] = np.array([r.quality - r.iou for r in results])
    return {"mean_error": float(np.abs(error).mean()), "bias": float(error.mean())}

"""How well SAM segments under true prompts: per region, per kind of prompt, in image pixels."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from toolkit.boxes import jitter_box
from toolkit.methods.sam.prompts import (
    Prompt,
    box_prompt,
    centre_pixel,
    click_on_error,
    click_prompt,
    with_click,
)
from toolkit.methods.sam.targets import Embeddings, Target
from toolkit.methods.sam.tta import NO_TTA, WHOLE, TTAConfig, View, predict_mask, refine
from toolkit.metrics.bootstrap import bootstrap_mean
from toolkit.metrics.masks import boundary_iou, mask_dice, mask_iou
from toolkit.metrics.values import to_json

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

    from toolkit.progress import Progress

FIRST_KINDS = ("box", "jittered-box", "1-click")
KINDS = (*FIRST_KINDS, "3-clicks", "5-clicks")
_SIZES = ((32**2, "small"), (96**2, "medium"), (float("inf"), "large"))
_Masks = dict[str, tuple["NDArray[np.bool_]", float]]
"""Mask and predicted IoU by kind of prompt."""


@dataclass(frozen=True)
class Evaluated:
    """A model and how it predicts.

    Attributes:
        sam: the model.
        tta: test-time augmentation.
        threshold: pixels with a larger mean logit are the mask.
    """

    sam: Sam
    tta: TTAConfig = NO_TTA
    threshold: float = 0.0


@dataclass(frozen=True)
class RegionResult:
    """The result for one region and one kind of prompt.

    Attributes:
        sample_id: the image.
        label: its defect type.
        region: number of the region in the image.
        area: its true size in pixels.
        kind: one of `KINDS`.
        iou: at the image's resolution, as are the next two.
        dice: of mask and truth.
        boundary_iou: within 2 % of the image's diagonal from the contours.
        predicted_iou: the IoU that SAM predicted.
    """

    sample_id: str
    label: str
    region: int
    area: int
    kind: str
    iou: float
    dice: float
    boundary_iou: float
    predicted_iou: float


def evaluate_prompts(
    model: Evaluated,
    cache: Embeddings,
    targets: Sequence[Target],
    kinds: Sequence[str] = KINDS,
    bar: Progress | None = None,
) -> dict[str, list[RegionResult]]:
    """Prompt every region with its true box and with clicks.

    A first click goes to the deepest pixel of the region; each further one to the deepest pixel
    of the larger kind of error, with the mask fed back. The jitter is the same in every call.

    Args:
        model: what is evaluated.
        cache: embeddings of the targets' images.
        targets: regions.
        kinds: of prompts, out of `KINDS`.
        bar: advanced by 1 per target.

    Returns:
        For each kind, one result per target.
    """
    results: dict[str, list[RegionResult]] = {kind: [] for kind in kinds}
    counts: dict[str, int] = {}
    for target in targets:
        number = counts.get(target.sample.id, 0)
        counts[target.sample.id] = number + 1
        truth = true_mask(target)
        for kind, (mask, predicted_iou) in predict_kinds(model, cache, target, kinds).items():
            # The truth is not empty, so every figure exists.
            iou, dice, boundary = (
                float(f(mask, truth))  # type: ignore[arg-type]
                for f in (mask_iou, mask_dice, boundary_iou)
            )
            results[kind].append(
                RegionResult(
                    sample_id=target.sample.id,
                    label=target.sample.label,
                    region=number,
                    area=int(truth.sum()),
                    kind=kind,
                    iou=iou,
                    dice=dice,
                    boundary_iou=boundary,
                    predicted_iou=predicted_iou,
                )
            )
        if bar is not None:
            bar.advance()
    return results


def region_ious(sam: Sam, cache: Embeddings, target: Target, kinds: Sequence[str]) -> list[float]:
    """Return the IoU of one region for each kind of prompt, without test-time augmentation."""
    found, truth = predict_kinds(Evaluated(sam), cache, target, kinds), true_mask(target)
    return [float(mask_iou(found[kind][0], truth)) for kind in kinds]  # type: ignore[arg-type]


def true_mask(target: Target) -> NDArray[np.bool_]:
    """Return the region of a target as a bool array (H, W).

    Raises:
        ValueError: it is a place on a good image.
    """
    if target.region is None:
        raise ValueError("only regions can be evaluated")
    return target.region.mask(target.size_wh)


@torch.no_grad()
def predict_kinds(
    model: Evaluated, cache: Embeddings, target: Target, kinds: Sequence[str]
) -> _Masks:
    """Return mask and predicted IoU of a target's region for each kind of prompt."""
    size_wh, truth = target.size_wh, true_mask(target)
    known: dict[View, Tensor] = {}

    def embedding_of(view: View) -> Tensor:
        if view not in known:
            # The target's own view, such as a crop, is the whole image here.
            known[view] = cache.get(target.sample, target.view if view == WHOLE else view)
        return known[view]

    found: _Masks = {}
    for kind in kinds:
        if kind in _BOX_PROMPTS:
            box = _BOX_PROMPTS[kind](target)
            prediction = predict_mask(model.sam, embedding_of, box, size_wh, model.tta)
            found[kind] = (prediction.mask(model.threshold), prediction.mean_iou_prediction())
    clicks = {int(kind.split("-")[0]): kind for kind in kinds if kind not in _BOX_PROMPTS}
    if not clicks:
        return found
    prompt = click_prompt(*centre_pixel(truth))
    prediction = predict_mask(model.sam, embedding_of, prompt, size_wh, model.tta)
    for number in range(1, max(clicks) + 1):
        mask = prediction.mask(model.threshold)
        error = click_on_error(mask, truth)
        if number in clicks:
            found[clicks[number]] = (mask, prediction.mean_iou_prediction())
        if error is None:
            # Nothing is left to correct, so the mask stays for all further clicks.
            rest = {kind: (mask, prediction.mean_iou_prediction()) for kind in clicks.values()}
            return rest | found
        if number < max(clicks):
            x, y, positive = error
            prompt = with_click(prompt, x, y, positive=positive)
            prediction = refine(embedding_of, prompt, size_wh, prediction)
    return found


def compare(zero_shot: Sequence[RegionResult], tuned: Sequence[RegionResult]) -> dict[str, Any]:
    """Compare two models, region by region.

    Args:
        zero_shot: results of the model before training for one kind of prompt.
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
        raise ValueError("both models must be evaluated on the same prompts")
    difference = [b.iou - a.iou for a, b in pairs]
    return {
        "regions": len(pairs),
        **_means(pairs, "iou"),
        "difference": float(np.mean(difference)),
        "interval": to_json(bootstrap_mean(difference, [b.label for _, b in pairs])),
        "dice": _means(pairs, "dice"),
        "boundary_iou": _means(pairs, "boundary_iou"),
        "by_type": _grouped(pairs, lambda r: r.label),
        "by_size": _grouped(pairs, size_of),
        "calibration": {
            "zero_shot": _calibration(zero_shot),
            "tuned": _calibration(tuned),
        },
    }


def size_of(result: RegionResult) -> str:
    """Return `small`, `medium` or `large`, by the region's true area."""
    return next(name for limit, name in _SIZES if result.area < limit)


def _jittered_box(target: Target) -> Prompt:
    seed = zlib.crc32(f"{target.sample.id} {target.box_xyxy}".encode())
    return box_prompt(jitter_box(target.box_xyxy, target.size_wh, np.random.default_rng(seed)))


_BOX_PROMPTS: dict[str, Callable[[Target], Prompt]] = {
    "box": lambda target: box_prompt(target.box_xyxy),
    "jittered-box": _jittered_box,
}

_Pairs = Sequence[tuple[RegionResult, RegionResult]]


def _means(pairs: _Pairs, measure: str) -> dict[str, float]:
    return {
        "zero_shot": float(np.mean([getattr(a, measure) for a, _ in pairs])),
        "tuned": float(np.mean([getattr(b, measure) for _, b in pairs])),
    }


def _grouped(pairs: _Pairs, key: Callable[[RegionResult], str]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[tuple[RegionResult, RegionResult]]] = {}
    for pair in pairs:
        groups.setdefault(key(pair[1]), []).append(pair)
    return {
        name: {"regions": len(members), **_means(members, "iou")}
        for name, members in sorted(groups.items())
    }


def _calibration(results: Sequence[RegionResult]) -> dict[str, float]:
    error = np.array([r.predicted_iou - r.iou for r in results])
    return {"mean_error": float(np.abs(error).mean()), "bias": float(error.mean())}

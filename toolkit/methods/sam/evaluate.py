"""How well SAM segments under true prompts: per region, per kind of prompt, in image pixels."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from toolkit.boxes import jitter_box
from toolkit.errors import ToolkitError
from toolkit.methods.sam.prompts import centre_pixel, click_on_error, with_click
from toolkit.methods.sam.targets import Embeddings, Target
from toolkit.methods.sam.tta import (
    NO_TTA,
    SIZES,
    WHOLE,
    Decoders,
    MaskPrediction,
    TTAConfig,
    View,
    predict_masks,
    refine,
)
from toolkit.metrics.bootstrap import bootstrap_mean
from toolkit.metrics.masks import boundary_iou, mask_dice, mask_iou
from toolkit.metrics.values import to_json
from toolkit.runtime.prompts import Prompt, box_prompt, click_prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

    from toolkit.progress import Progress
    from toolkit.runs.run import Run

FIRST_KINDS = ("box", "jittered-box", "1-click")
KINDS = (*FIRST_KINDS, "3-clicks", "5-clicks")
_FEW = 8
"""Regions of a size below which it has no choice of its own."""
_SIZES = ((32**2, "small"), (96**2, "medium"), (float("inf"), "large"))
_Masks = dict[str, tuple["NDArray[np.bool_]", float]]
"""Mask and predicted IoU by kind of prompt."""


@dataclass(frozen=True)
class Evaluated:
    """A model and how it predicts.

    Attributes:
        decoders: the model.
        tta: how often and how closely it looks.
        threshold: pixels with a larger mean logit are the mask.
    """

    decoders: Decoders
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
        longest: longest side of its box, as a share of the image's longer side.
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
    longest: float
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
                    longest=_longest(target),
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
    """Return the IoU of one region for each kind of prompt, seen in the whole image."""
    found, truth = predict_kinds(Evaluated(Decoders(sam)), cache, target, kinds), true_mask(target)
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

    def predict(prompt: Prompt) -> MaskPrediction:
        (one,) = predict_masks(
            model.decoders, embedding_of, [prompt], size_wh, model.tta, model.threshold
        )
        return one

    found: _Masks = {}
    for kind in kinds:
        if kind in _BOX_PROMPTS:
            prediction = predict(_BOX_PROMPTS[kind](target))
            found[kind] = (prediction.mask(model.threshold), prediction.mean_iou_prediction())
    clicks = {int(kind.split("-")[0]): kind for kind in kinds if kind not in _BOX_PROMPTS}
    if not clicks:
        return found
    prompt = click_prompt(*centre_pixel(truth))
    prediction = predict(prompt)
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


def joined_iou(model: Evaluated, cache: Embeddings, targets: Sequence[Target]) -> float | None:
    """Return the mean IoU over images of all masks of true boxes, joined; None without images."""
    ious = []
    for group in _by_image(targets).values():
        mask = np.zeros_like(true_mask(group[0]))
        for target in group:
            mask |= predict_kinds(model, cache, target, ["box"])["box"][0]
        ious.append(mask_iou(mask, _joined_truth(group)))
    return float(np.mean(ious)) if ious else None  # type: ignore[arg-type]


def stored_iou(run: Run, targets: Sequence[Target]) -> float | None:
    """Return the mean IoU over defective images of the run's stored test masks, if it has any."""
    from toolkit.runs.prediction_io import read_predictions

    groups = _by_image(targets)
    try:
        stored = [p for p in read_predictions(run.predictions, "test") if p.sample_id in groups]
    except (ToolkitError, OSError):  # it has none, as in a study of training alone
        return None
    ious = [mask_iou(p.mask, _joined_truth(groups[p.sample_id])) for p in stored]  # type: ignore[arg-type]
    return float(np.mean(ious)) if ious else None  # type: ignore[arg-type]


def _by_image(targets: Sequence[Target]) -> dict[str, list[Target]]:
    groups: dict[str, list[Target]] = {}
    for target in targets:
        groups.setdefault(target.sample.id, []).append(target)
    return groups


def _joined_truth(targets: Sequence[Target]) -> NDArray[np.bool_]:
    truth: NDArray[np.bool_] = np.logical_or.reduce([true_mask(target) for target in targets])
    return truth


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


def choose_decoders(
    zero_shot: Mapping[str, Sequence[RegionResult]],
    tuned: Mapping[str, Sequence[RegionResult]],
    crop_below: float,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Choose between both decoders on the validation part, per kind of prompt and size of region.

    The tuned decoder answers unless its mean IoU is the lower one. A size with few regions follows
    the choice over all sizes.

    Args:
        zero_shot: results of the decoder before training for the kinds `box` and `1-click`.
        tuned: results of the tuned decoder for the same regions.
        crop_below: see `TTAConfig`; it divides the sizes.

    Returns:
        By kind (`box`, `click`) and size (`small`, `large`): the `decoder` (`tuned` or
        `zero_shot`), the number of `regions` that it was chosen on, and both mean IoUs; no numbers
        where there are no regions.
    """
    choice: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in ("box", "1-click"):
        pairs = list(zip(zero_shot[kind], tuned[kind], strict=True))
        of_kind = choice.setdefault("box" if kind == "box" else "click", {})
        for size in SIZES:
            own = [p for p in pairs if (p[0].longest < crop_below) == (size == "small")]
            members = own if len(own) >= _FEW else pairs
            of_kind[size] = {"decoder": "tuned", "regions": len(members)}
            if members:
                means = _means(members, "iou")
                worse = means["tuned"] < means["zero_shot"]
                of_kind[size] |= {"decoder": "zero_shot" if worse else "tuned", **means}
    return choice


def size_of(result: RegionResult) -> str:
    """Return `small`, `medium` or `large`, by the region's true area."""
    return next(name for limit, name in _SIZES if result.area < limit)


def _longest(target: Target) -> float:
    x0, y0, x1, y1 = target.box_xyxy
    return max(x1 - x0, y1 - y0) / max(target.size_wh)


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

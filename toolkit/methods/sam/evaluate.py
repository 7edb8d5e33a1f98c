"""How well SAM answers true prompts: per region, per kind of prompt, at the image's resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from toolkit.methods.sam.decoder import Decoded, decode, scale_to_input, to_image_size
from toolkit.methods.sam.embeddings import EmbeddingCache
from toolkit.methods.sam.prompts import (
    Prompt,
    box_prompt,
    centre_pixel,
    click_prompt,
    correction,
    jittered_box,
    with_click,
)
from toolkit.methods.sam.targets import Target
from toolkit.metrics.bootstrap import bootstrap_mean
from toolkit.metrics.masks import mask_iou
from toolkit.metrics.values import to_json

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

KINDS = ("box", "jittered-box", "1-click", "3-clicks", "5-clicks")


@dataclass(frozen=True)
class RegionResult:
    """SAM's answer for one region and one kind of prompt.

    Attributes:
        sample_id: the image.
        label: its defect type.
        region: number of the region in the image.
        area: its true size in pixels.
        kind: one of `KINDS`.
        iou: at the image's resolution.
        quality: the IoU that SAM predicted.
    """

    sample_id: str
    label: str
    region: int
    area: int
    kind: str
    iou: float
    quality: float


def mean_iou(sam: Sam, cache: EmbeddingCache, targets: Sequence[Target], kind: str) -> float:
    """Return the mean IoU over regions for one kind of prompt."""
    return float(np.mean([r.iou for r in prompted(sam, cache, targets, kind)]))


@torch.no_grad()
def prompted(
    sam: Sam, cache: EmbeddingCache, targets: Sequence[Target], kind: str
) -> list[RegionResult]:
    """Prompt every region with its true box or with clicks.

    A first click goes to the deepest pixel of the region; each further one to the deepest pixel
    of the larger kind of error, with the mask fed back. The jitter is the same in every call.
    """
    rng = np.random.default_rng(0)
    results = []
    counts: dict[str, int] = {}
    for target in targets:
        region = target.region
        if region is None:
            raise ValueError("only regions can be evaluated")
        number = counts.get(target.sample.id, 0)
        counts[target.sample.id] = number + 1
        truth = region.mask(target.size_wh)
        embedding = cache.get(target.sample, target.view).float()[None].to(sam.device)
        mask, quality = _answer(sam, embedding, target, truth, kind, rng)
        results.append(
            RegionResult(
                sample_id=target.sample.id,
                label=target.sample.label,
                region=number,
                area=region.area,
                kind=kind,
                iou=float(mask_iou(mask, truth)),  # type: ignore[arg-type]  # truth is not empty
                quality=quality,
            )
        )
    return results


def _answer(
    sam: Sam,
    embedding: torch.Tensor,
    target: Target,
    truth: NDArray[np.bool_],
    kind: str,
    rng: np.random.Generator,
) -> tuple[NDArray[np.bool_], float]:
    scale = scale_to_input(target.size_wh)

    def ask(prompt: Prompt, feedback: torch.Tensor | None = None) -> Decoded:
        return decode(sam, embedding, [prompt], [scale], feedback)

    if kind == "box":
        decoded = ask(box_prompt(target.box_xyxy))
        return _mask(decoded, target.size_wh), float(decoded.quality[0, 0])
    if kind == "jittered-box":
        decoded = ask(box_prompt(jittered_box(target.box_xyxy, target.size_wh, rng)))
        return _mask(decoded, target.size_wh), float(decoded.quality[0, 0])
    clicks = int(kind.split("-")[0])
    prompt = click_prompt(*centre_pixel(truth))
    decoded = ask(prompt)
    for _ in range(clicks - 1):
        mask = _mask(decoded, target.size_wh)
        error = correction(mask, truth)
        if error is None:
            break
        x, y, positive = error
        prompt = with_click(prompt, x, y, positive=positive)
        decoded = ask(prompt, decoded.logits[:, :1].clamp(-32, 32))
    return _mask(decoded, target.size_wh), float(decoded.quality[0, 0])


def _mask(decoded: Decoded, size_wh: tuple[int, int]) -> NDArray[np.bool_]:
    logits = to_image_size(decoded.logits[:, :1], size_wh)[0, 0]
    mask: NDArray[np.bool_] = (logits > 0).cpu().numpy()
    return mask


def compare(zero_shot: Sequence[RegionResult], tuned: Sequence[RegionResult]) -> dict[str, Any]:
    """Set the fine-tuned model beside the untouched one, on the same regions and prompts.

    Returns:
        Mean IoU of both, their difference with its paired 95 % bootstrap interval (stratified by
        defect type), the number of regions, and the means by defect type.
    """
    labels = [r.label for r in tuned]
    before = np.array([r.iou for r in zero_shot])
    after = np.array([r.iou for r in tuned])
    interval = bootstrap_mean(after - before, labels)
    return {
        "regions": len(tuned),
        "zero_shot": float(before.mean()),
        "tuned": float(after.mean()),
        "difference": float((after - before).mean()),
        "interval": to_json(interval),
        "by_type": {
            label: {
                "zero_shot": float(before[[x == label for x in labels]].mean()),
                "tuned": float(after[[x == label for x in labels]].mean()),
            }
            for label in sorted(set(labels))
        },
    }

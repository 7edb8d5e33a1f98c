"""How well SAM answers true prompts: per region, per kind of prompt, at the image's resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from toolkit.methods.sam.decoder import Decoded, decode, scale_to_input, to_image_size
from toolkit.methods.sam.embeddings import Embeddings
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
from toolkit.metrics.masks import boundary_iou, mask_dice, mask_iou

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
        iou: at the image's resolution, as are the next two.
        dice: of mask and truth.
        boundary_iou: within 2 % of the image's diagonal from the contours.
        quality: the IoU that SAM predicted.
    """

    sample_id: str
    label: str
    region: int
    area: int
    kind: str
    iou: float
    dice: float
    boundary_iou: float
    quality: float


def mean_iou(sam: Sam, cache: Embeddings, targets: Sequence[Target], kind: str) -> float:
    """Return the mean IoU over regions for one kind of prompt."""
    return float(np.mean([r.iou for r in prompted(sam, cache, targets, kind)]))


@torch.no_grad()
def prompted(
    sam: Sam, cache: Embeddings, targets: Sequence[Target], kind: str
) -> list[RegionResult]:
    """Prompt every region with its true box or with clicks.

    A first click goes to the deepest pixel of the region; each further one to the deepest pixel
    of the larger kind of error, with the mask fed back. The jitter is the same in every call.
    """
    rng = np.random.default_rng(0)
    results = []
    counts: dict[str, int] = {}
    for target in targets:
        number = counts.get(target.sample.id, 0)
        counts[target.sample.id] = number + 1
        truth = _truth(target)
        mask, quality = _answer(sam, cache, target, truth, kind, rng)
        # The truth is not empty, so every figure exists.
        iou, dice, boundary = (float(f(mask, truth)) for f in (mask_iou, mask_dice, boundary_iou))  # type: ignore[arg-type]
        results.append(
            RegionResult(
                sample_id=target.sample.id,
                label=target.sample.label,
                region=number,
                area=int(truth.sum()),
                kind=kind,
                iou=iou,
                dice=dice,
                boundary_iou=boundary,
                quality=quality,
            )
        )
    return results


@torch.no_grad()
def prompted_mask(sam: Sam, cache: Embeddings, target: Target, kind: str) -> NDArray[np.bool_]:
    """Return the mask (H, W) that SAM answers one true prompt with."""
    mask, _ = _answer(sam, cache, target, _truth(target), kind, np.random.default_rng(0))
    return mask


def _truth(target: Target) -> NDArray[np.bool_]:
    if target.region is None:
        raise ValueError("only regions can be evaluated")
    return target.region.mask(target.size_wh)


def _answer(
    sam: Sam,
    cache: Embeddings,
    target: Target,
    truth: NDArray[np.bool_],
    kind: str,
    rng: np.random.Generator,
) -> tuple[NDArray[np.bool_], float]:
    embedding = cache.get(target.sample, target.view).float()[None].to(sam.device)
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

"""How well SAM answers true prompts: per region, per kind of prompt, at the image's resolution."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from toolkit.methods.sam.embeddings import Embeddings
from toolkit.methods.sam.frames import WHOLE, Frame
from toolkit.methods.sam.looks import PLAIN, Answer, Looks, answer, corrected, under_clicks
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

FIRST_KINDS = ("box", "jittered-box", "1-click")
KINDS = (*FIRST_KINDS, "3-clicks", "5-clicks")


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
    """Return the mean IoU over regions for one kind of prompt, each looked at once."""
    return float(np.mean([r.iou for r in prompted(sam, cache, targets, [kind])[kind]]))


@torch.no_grad()
def prompted(
    sam: Sam,
    cache: Embeddings,
    targets: Sequence[Target],
    kinds: Sequence[str] = KINDS,
    looks: Looks = PLAIN,
) -> dict[str, list[RegionResult]]:
    """Prompt every region with its true box and with clicks.

    A first click goes to the deepest pixel of the region; each further one to the deepest pixel
    of the larger kind of error, with the mask fed back. The jitter is the same in every call.

    Args:
        sam: the model.
        cache: embeddings of the targets' images.
        targets: regions; of whole images, where it is looked more often than once.
        kinds: of prompts, out of `KINDS`.
        looks: how an answer is looked for.

    Returns:
        For each kind, one result per target.
    """
    results: dict[str, list[RegionResult]] = {kind: [] for kind in kinds}
    counts: dict[str, int] = {}
    for target in targets:
        number = counts.get(target.sample.id, 0)
        counts[target.sample.id] = number + 1
        truth = _truth(target)
        for kind, (mask, quality) in _answered(sam, cache, target, truth, kinds, looks).items():
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
                    quality=quality,
                )
            )
    return results


@torch.no_grad()
def prompted_mask(
    sam: Sam, cache: Embeddings, target: Target, kind: str, looks: Looks = PLAIN
) -> NDArray[np.bool_]:
    """Return the mask (H, W) that SAM answers one true prompt with."""
    mask, _ = _answered(sam, cache, target, _truth(target), [kind], looks)[kind]
    return mask


def _truth(target: Target) -> NDArray[np.bool_]:
    if target.region is None:
        raise ValueError("only regions can be evaluated")
    return target.region.mask(target.size_wh)


def _answered(
    sam: Sam,
    cache: Embeddings,
    target: Target,
    truth: NDArray[np.bool_],
    kinds: Sequence[str],
    looks: Looks,
) -> dict[str, tuple[NDArray[np.bool_], float]]:
    """Return mask and predicted IoU for each kind of prompt."""
    size_wh = target.size_wh
    found = {}
    known: dict[Frame, Tensor] = {}

    def shown(frame: Frame) -> Tensor:
        if frame not in known:
            # A target that is itself in a window is the whole image here.
            own = target.frame if frame == WHOLE else frame
            known[frame] = cache.get(target.sample, own)
        return known[frame]

    for kind in kinds:
        if kind in _BOXES:
            prompt = _BOXES[kind](target)
            said = answer(sam, shown, prompt, size_wh, looks)
            found[kind] = (_mask(said, prompt, looks), said.mean_quality())
    clicks = {kind: int(kind.split("-")[0]) for kind in kinds if kind not in _BOXES}
    if not clicks:
        return found
    prompt = click_prompt(*centre_pixel(truth))
    said = answer(sam, shown, prompt, size_wh, looks)
    for number in range(1, max(clicks.values()) + 1):
        mask = _mask(said, prompt, looks)
        found |= {kind: (mask, said.mean_quality()) for kind, n in clicks.items() if n == number}
        error = correction(mask, truth)
        if error is None:
            # Nothing is left to correct, so further clicks would get the same answer.
            rest = {kind: n for kind, n in clicks.items() if n > number}
            return found | {kind: (mask, said.mean_quality()) for kind in rest}
        if number < max(clicks.values()):
            x, y, positive = error
            prompt = with_click(prompt, x, y, positive=positive)
            said = corrected(shown, prompt, size_wh, said)
    return found


def _true_box(target: Target) -> Prompt:
    return box_prompt(target.box_xyxy)


def _moved_box(target: Target) -> Prompt:
    seed = zlib.crc32(f"{target.sample.id} {target.box_xyxy}".encode())
    return box_prompt(jittered_box(target.box_xyxy, target.size_wh, np.random.default_rng(seed)))


_BOXES = {"box": _true_box, "jittered-box": _moved_box}


def _mask(said: Answer, prompt: Prompt, looks: Looks) -> NDArray[np.bool_]:
    mask = said.mask()
    return mask if looks == PLAIN else under_clicks(mask, prompt)

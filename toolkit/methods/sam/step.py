"""One training step: a first prompt for each of a batch of targets, and clicks on the errors.

The batch is divided among threads, whose gradients are added up in order, so that the same number
of threads gives the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from toolkit.methods.sam.decoder import INPUT_SIZE, decode, scale_to_input
from toolkit.methods.sam.embeddings import Embeddings
from toolkit.methods.sam.frames import Frame
from toolkit.methods.sam.losses import low_iou, mask_loss
from toolkit.methods.sam.prompts import (
    Prompt,
    box_prompt,
    click_prompt,
    correction,
    jittered_box,
    likely_pixel,
    random_pixel,
    with_click,
)
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.targets import Target

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

_FEEDBACK_MOST = 32.0
Kept = dict[tuple[Path, Frame], Tensor]
"""Embeddings at half the resolution, (256, 32, 32), half a MiB each."""


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Attributes:
        targets: B regions, or places on good images.
        encoded: float tensor (B, 256, h, w), embeddings; with a graph where the encoder learns.
        truth: float tensor (B, 1, 4 h, 4 w) in [0, 1].
    """

    targets: Sequence[Target]
    encoded: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Work:
    """Who does a step.

    Attributes:
        sam: the model.
        parameters: what learns.
        bfloat16: whether the decoder runs in it.
        pool: the threads.
        count: how many they are.
    """

    sam: Sam
    parameters: Sequence[Tensor]
    bfloat16: bool
    pool: Executor
    count: int


def whole_batch(targets: Sequence[Target], cache: Embeddings, device: torch.device) -> Batch:
    """Return a batch at SAM's own resolution."""
    encoded = torch.stack([cache.get(t.sample, t.frame) for t in targets])
    return Batch(targets, encoded.to(device).float(), _truth(targets).to(device))


def coarse_batch(
    targets: Sequence[Target], cache: Embeddings, device: torch.device, kept: Kept
) -> Batch:
    """Return a batch at half the resolution.

    Args:
        targets: what it is made of.
        cache: embeddings.
        device: where the step is done.
        kept: holds those that are known, and gets the others, unless the encoder learns.
    """
    parts = []
    for target in targets:
        key = (target.sample.image, target.frame)
        pooled = kept.get(key)
        if pooled is None:
            embedding = cache.get(target.sample, target.frame)
            pooled = functional.avg_pool2d(embedding.float(), 2)
            if not pooled.requires_grad:
                kept[key] = pooled = pooled.to(embedding.dtype)
        parts.append(pooled)
    truth = functional.avg_pool2d(_truth(targets), 2)
    return Batch(targets, torch.stack(parts).to(device).float(), truth.to(device))


def take_step(
    work: Work, batch: Batch, settings: SamSettings, rng: np.random.Generator
) -> tuple[float, float]:
    """Leave the gradients of one batch in the parameters; return mean loss and first IoU."""
    targets = batch.targets
    # The gradients of all rounds are added up here, and go through the encoder once, if it learns.
    leaf = batch.encoded.detach().requires_grad_(batch.encoded.requires_grad)
    inputs = [*work.parameters, *([leaf] if leaf.requires_grad else [])]
    scales = [scale_to_input(t.size_wh) for t in targets]
    prompts = [_first_prompt(t, settings, rng) for t in targets]
    real = torch.tensor([t.region is not None for t in targets], device=leaf.device)
    ambiguous = torch.tensor([bool(p.labels[-1] < 0) for p in prompts], device=leaf.device)
    rounds = 1 + (settings.corrections if rng.random() < settings.correction_share else 0)
    size = math.ceil(len(targets) / work.count)
    slices = [slice(start, start + size) for start in range(0, len(targets), size)]
    feedback: Tensor | None = None
    losses, first_iou = [], float("nan")

    def learn(rows: slice) -> _Learnt:
        # Without its cache, which threads would share: one clears what the other still uses.
        with torch.autocast(
            leaf.device.type, torch.bfloat16, enabled=work.bfloat16, cache_enabled=False
        ):
            said = decode(
                work.sam, leaf[rows], prompts[rows], scales[rows],
                None if feedback is None else feedback[rows],
            )  # fmt: skip
        logits = said.logits.float()
        each, iou = _loss(
            logits, said.quality.float(), batch.truth[rows], real[rows], ambiguous[rows]
        )
        loss = each.sum() / len(targets)
        gradients = torch.autograd.grad(loss / rounds, inputs, allow_unused=True)
        return _Learnt(float(loss.detach()), iou, logits[:, :1].detach(), gradients)

    for number in range(rounds):
        parts = list(work.pool.map(learn, slices))
        for part in parts:
            _add(inputs, part.gradients)
        losses.append(sum(part.loss for part in parts))
        if number == 0 and bool(real.any()):
            first_iou = float(torch.cat([part.iou for part in parts])[real].mean())
        if number + 1 < rounds:
            feedback = torch.cat([part.said for part in parts]).clamp(
                -_FEEDBACK_MOST, _FEEDBACK_MOST
            )
            prompts = [
                _corrected(p, t.size_wh, low > 0, true > 0.5, rng)
                for p, t, low, true in zip(
                    prompts, targets, feedback[:, 0], batch.truth[:, 0], strict=True
                )
            ]
            ambiguous = torch.zeros_like(ambiguous)
    if leaf.grad is not None:
        batch.encoded.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return float(np.mean(losses)), first_iou


@dataclass(frozen=True)
class _Learnt:
    """What one thread found: its share of the loss, IoU (b,), mask (b, 1, 4 h, 4 w), gradients."""

    loss: float
    iou: Tensor
    said: Tensor
    gradients: Sequence[Tensor | None]


def _truth(targets: Sequence[Target]) -> Tensor:
    return torch.from_numpy(np.stack([t.low for t in targets]))[:, None]


def _add(inputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for tensor, gradient in zip(inputs, gradients, strict=True):
        if gradient is None:
            continue
        if tensor.grad is None:
            # In the parameter's own order of memory, which the fused update takes for granted.
            tensor.grad = torch.empty_like(tensor).copy_(gradient)
        else:
            tensor.grad.add_(gradient)


def _loss(
    logits: Tensor, quality: Tensor, truth: Tensor, real: Tensor, ambiguous: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each prompt's loss (B,), and the IoU (B,) of the single masks.

    The single mask learns from every prompt; of the three candidates for an ambiguous prompt only
    the best one learns. Good places have no mask to learn: only the quality is pulled to zero.
    """
    iou = low_iou(logits, truth.expand_as(logits)) * real[:, None]
    single = mask_loss(logits[:, 0], truth[:, 0])
    quality_error = (quality - iou) ** 2
    total = real * single + quality_error[:, 0]
    if bool(ambiguous.any()):
        candidates = mask_loss(logits[:, 1:], truth.expand(-1, 3, -1, -1))
        best, index = candidates.min(dim=1)
        chosen = quality_error[:, 1:].gather(1, index[:, None])[:, 0]
        total = total + ambiguous * (real * best + chosen)
    return total, iou[:, 0]


def _first_prompt(target: Target, settings: SamSettings, rng: np.random.Generator) -> Prompt:
    if rng.random() < settings.box_share:
        return box_prompt(jittered_box(target.box_xyxy, target.size_wh, rng, share=settings.jitter))
    x0, y0, x1, y1 = target.box_xyxy
    if target.region is None:
        return click_prompt(float(rng.integers(x0, x1)), float(rng.integers(y0, y1)))
    x, y = likely_pixel(target.region.crop, rng)
    return click_prompt(x0 + x, y0 + y)


def _corrected(
    prompt: Prompt, size_wh: tuple[int, int], said: Tensor, true: Tensor, rng: np.random.Generator
) -> Prompt:
    """Add a click on the error; where there is none, one on the object (or beside it)."""
    predicted, truth = said.cpu().numpy(), true.cpu().numpy()
    found = correction(predicted, truth, rng)
    if found is None:
        found = (*random_pixel(truth if truth.any() else ~truth, rng), bool(truth.any()))
    x, y, positive = found
    per_pixel = INPUT_SIZE / len(truth) / scale_to_input(size_wh)
    width, height = size_wh
    return with_click(
        prompt,
        min((x + 0.5) * per_pixel, width - 1),
        min((y + 0.5) * per_pixel, height - 1),
        positive=positive,
    )

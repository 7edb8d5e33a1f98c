"""The gradients of one step: a prompt for each of a batch of targets, and clicks on the errors.

The batch is divided among processes, if there are several (`data_parallel`), and among threads,
whose gradients are added up in order, so that the same number of both gives the same gradients.
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

from toolkit.methods.sam.batched_decoder import LOGIT_LIMIT, decode
from toolkit.methods.sam.data_parallel import ALONE, Shards
from toolkit.methods.sam.losses import prompt_loss
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.targets import Embeddings, Target
from toolkit.methods.sam.training_prompts import first_prompt, with_random_click
from toolkit.methods.sam.tta import View
from toolkit.runtime.segmentation import scale_to_input

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


@dataclass(frozen=True)
class StepContext:
    """Model, parameters and thread pool of a training step."""

    sam: Sam
    parameters: Sequence[Tensor]
    bfloat16: bool
    pool: Executor
    threads: int
    shards: Shards = ALONE


@dataclass(frozen=True)
class Batch:
    """Input of one step.

    Attributes:
        targets: B regions, or places on good images.
        rows: which of them this process computes, R of them.
        embeddings: of these, float tensor (R, 256, h, w).
        truth: of all, float tensor (B, 1, 4 h, 4 w) in [0, 1].
    """

    targets: Sequence[Target]
    rows: Sequence[int]
    embeddings: Tensor
    truth: Tensor


def full_res_batch(
    targets: Sequence[Target], cache: Embeddings, device: torch.device, shards: Shards = ALONE
) -> Batch:
    """Return a batch at SAM's own resolution."""
    rows = shards.rows(targets)
    embeddings = [cache.get(targets[i].sample, targets[i].view) for i in rows]
    return Batch(targets, rows, _stacked(embeddings, device), _truth(targets).to(device))


def low_res_batch(
    targets: Sequence[Target],
    cache: Embeddings,
    device: torch.device,
    low_res: dict[tuple[Path, View], Tensor],
    shards: Shards = ALONE,
) -> Batch:
    """Return a batch at half the resolution.

    Args:
        targets: of the batch.
        cache: embeddings.
        device: where the step is computed.
        low_res: embeddings (256, 32, 32) so far, half a MiB each; missing ones are added.
        shards: which of several processes this is; it keeps the embeddings that it owns.
    """
    rows, embeddings = shards.rows(targets), []
    for sample, view in ((targets[i].sample, targets[i].view) for i in rows):
        low = low_res.get((sample.image, view))
        if low is None:
            embedding = cache.get(sample, view)
            low = functional.avg_pool2d(embedding.float(), 2).to(embedding.dtype)
            if shards.owns(sample, view):
                low_res[sample.image, view] = low
        embeddings.append(low)
    truth = functional.avg_pool2d(_truth(targets), 2)
    return Batch(targets, rows, _stacked(embeddings, device), truth.to(device))


def compute_gradients(
    context: StepContext, batch: Batch, settings: SamSettings, rng: np.random.Generator
) -> tuple[float, float]:
    """Leave the gradients of one batch in the parameters; return mean loss and first IoU."""
    targets = batch.targets
    scales = [scale_to_input(t.size_wh) for t in targets]
    prompts = [first_prompt(t, settings, rng) for t in targets]
    real = torch.tensor([t.region is not None for t in targets], device=batch.truth.device)
    ambiguous = torch.tensor([not p.is_box for p in prompts], device=batch.truth.device)
    rounds = 1 + (settings.refinement_clicks if rng.random() < settings.refinement_prob else 0)
    own = torch.tensor(batch.rows, dtype=torch.long, device=batch.truth.device)
    size = max(math.ceil(len(own) / context.threads), 1)
    slices = [slice(start, start + size) for start in range(0, len(own), size)]
    feedback: Tensor | None = None
    losses, first_iou = [], float("nan")

    def compute(part: slice) -> tuple[float, Tensor, Tensor, Sequence[Tensor | None]]:
        """Return loss, IoU (b,), logits (b, 1, 4 h, 4 w) and gradients of a part of the rows."""
        rows, numbers = own[part], batch.rows[part]
        # Without its cache, which threads would share: one clears what the other still uses.
        with torch.autocast(
            batch.embeddings.device.type,
            torch.bfloat16,
            enabled=context.bfloat16,
            cache_enabled=False,
        ):
            decoded = decode(
                context.sam, batch.embeddings[part], [prompts[i] for i in numbers],
                [scales[i] for i in numbers], None if feedback is None else feedback[rows],
            )  # fmt: skip
            logits, predicted = decoded.low_res_logits().float(), decoded.iou_predictions().float()
        each, iou = prompt_loss(logits, predicted, batch.truth[rows], real[rows], ambiguous[rows])
        loss = each.sum() / len(targets)
        gradients = torch.autograd.grad(loss / rounds, context.parameters, allow_unused=True)
        return float(loss.detach()), iou, logits[:, :1].detach(), gradients

    for number in range(rounds):
        parts = list(context.pool.map(compute, slices))
        for *_, gradients in parts:
            _add_gradients(context.parameters, gradients)
        own_loss = torch.tensor(sum(loss for loss, *_ in parts), dtype=torch.float64)
        losses.append(float(context.shards.sum(own_loss)))
        if number == 0 and bool(real.any()):
            ious = _of_all(context, own, [iou for _, iou, *_ in parts], torch.zeros(len(targets)))
            first_iou = float(ious[real].mean())
        if number + 1 < rounds:
            found = [logits for _, _, logits, _ in parts]
            feedback = _of_all(context, own, found, torch.zeros_like(batch.truth))
            feedback = feedback.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            prompts = [
                with_random_click(p, t.size_wh, low > 0, true > 0.5, rng)
                for p, t, low, true in zip(
                    prompts, targets, feedback[:, 0], batch.truth[:, 0], strict=True
                )
            ]
            ambiguous = torch.zeros_like(ambiguous)
    context.shards.sum_gradients(context.parameters)
    return float(np.mean(losses)), first_iou


def _of_all(context: StepContext, own: Tensor, parts: Sequence[Tensor], zeros: Tensor) -> Tensor:
    """Return what all processes have computed for their rows of a batch, like `zeros`."""
    zeros = zeros.to(own.device)
    if parts:  # a process may have no row of a short batch
        zeros[own] = torch.cat(list(parts)).to(zeros)
    return context.shards.sum(zeros)


def _stacked(embeddings: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.stack(list(embeddings)).to(device).float() if embeddings else torch.zeros(0)


def _truth(targets: Sequence[Target]) -> Tensor:
    return torch.from_numpy(np.stack([t.low_res_mask for t in targets]))[:, None]


def _add_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for tensor, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if tensor.grad is None:
            # In the parameter's own order of memory, which the fused update takes for granted.
            tensor.grad = torch.empty_like(tensor).copy_(gradient)
        else:
            tensor.grad.add_(gradient)

"""SAM's losses: focal and dice on masks, squared error on the predicted IoU.

Kirillov et al. 2023, "Segment Anything", appendix A: focal : dice = 20 : 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

FOCAL_WEIGHT = 20.0
_SMALL_SHARE = (9 / 256) ** 2
"""Regions below this share of SAM's square weigh as if they filled it: that is 32 x 32 pixels of an
image of about 900."""


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the soft Dice coefficient per mask (Milletari et al. 2016, "V-Net").

    Args:
        logits: float tensor (..., H, W).
        target: float tensor of the same shape, in [0, 1].

    Returns:
        float tensor (...).
    """
    probability = logits.sigmoid()
    overlap = (probability * target).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1))
    return 1 - (2 * overlap + 1) / (total + 1)


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return 20 focal + dice, per mask.

    A region of a few pixels hardly counts in either: focal is a mean over all pixels, and dice,
    with one added on both sides, costs little for an empty mask. So the loss is weighted up
    towards that of a region of about 32 x 32 pixels, or an empty mask would be cheapest.

    Args:
        logits: float tensor (..., H, W).
        target: float tensor of the same shape, in [0, 1].

    Returns:
        float tensor (...).
    """
    from torchvision.ops import sigmoid_focal_loss

    area = target.sum(dim=(-2, -1))
    small = _SMALL_SHARE * target.shape[-2] * target.shape[-1]
    weight = (small / area.clamp(min=1)).sqrt().clamp(min=1)
    weight = torch.where(area > 0, weight, torch.ones_like(weight))
    focal: Tensor = sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2).mean(dim=(-2, -1))
    return weight * (FOCAL_WEIGHT * focal + dice_loss(logits, target))


@torch.no_grad()
def low_res_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of thresholded masks against thresholded targets, per mask; 1 where both are empty."""
    predicted, truth = logits > 0, target > 0.5
    both = (predicted & truth).sum(dim=(-2, -1)).float()
    either = (predicted | truth).sum(dim=(-2, -1)).float()
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both))


def prompt_loss(
    logits: Tensor, predicted_iou: Tensor, truth: Tensor, real: Tensor, ambiguous: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each prompt's loss (B,), and the IoU (B,) of the single masks.

    The single mask learns from every prompt; of the three candidates for an ambiguous prompt only
    the best one learns. Good places have no mask to learn: their predicted IoU learns to be zero.

    Args:
        logits: float tensor (B, 4, H, W), see `batched_decoder`.
        predicted_iou: float tensor (B, 4).
        truth: float tensor (B, 1, H, W) in [0, 1].
        real: bool tensor (B,), false for good places.
        ambiguous: bool tensor (B,), true for clicks.
    """
    iou = low_res_iou(logits, truth.expand_as(logits)) * real[:, None]
    iou_error = (predicted_iou - iou) ** 2
    total = real * mask_loss(logits[:, 0], truth[:, 0]) + iou_error[:, 0]
    if bool(ambiguous.any()):
        best, index = mask_loss(logits[:, 1:], truth.expand(-1, 3, -1, -1)).min(dim=1)
        chosen = iou_error[:, 1:].gather(1, index[:, None])[:, 0]
        total = total + ambiguous * (real * best + chosen)
    return total, iou[:, 0]

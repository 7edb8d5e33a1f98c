"""SAM's losses: focal and dice on masks, squared error on the predicted IoU.

Kirillov et al. 2023, "Segment Anything", appendix A: focal : dice = 20 : 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FOCAL_WEIGHT = 20.0
SMALL_SHARE = (9 / 256) ** 2
"""Regions below this share of SAM's square weigh as if they filled it: that is 32 x 32 pixels of an
image of about 900."""


def focal_loss(
    logits: Tensor, target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss per mask (Lin et al. 2017, "Focal Loss for Dense Object Detection").

    Args:
        logits: float tensor (..., H, W).
        target: float tensor of the same shape, in [0, 1].
        alpha: weight of the foreground.
        gamma: how much easy pixels count less.

    Returns:
        float tensor (...), the mean over pixels.
    """
    probability = logits.sigmoid()
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    of_truth = probability * target + (1 - probability) * (1 - target)
    weight = alpha * target + (1 - alpha) * (1 - target)
    return (weight * (1 - of_truth) ** gamma * cross_entropy).mean(dim=(-2, -1))


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

    A region of a few pixels is a rounding error in both: the mean over all pixels hardly notices
    it, and dice, with one added on both sides, costs little where nothing is said. So the loss
    is weighted up towards that of a region of `SMALL_SHARE`, or saying nothing would be cheapest.
    """
    area = target.sum(dim=(-2, -1))
    small = SMALL_SHARE * target.shape[-2] * target.shape[-1]
    weight = (small / area.clamp(min=1)).sqrt().clamp(min=1)
    weight = torch.where(area > 0, weight, torch.ones_like(weight))
    return weight * (FOCAL_WEIGHT * focal_loss(logits, target) + dice_loss(logits, target))


@torch.no_grad()
def low_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of thresholded masks against thresholded targets, per mask; 1 where both are empty."""
    predicted, truth = logits > 0, target > 0.5
    both = (predicted & truth).sum(dim=(-2, -1)).float()
    either = (predicted | truth).sum(dim=(-2, -1)).float()
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both))

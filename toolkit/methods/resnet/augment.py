"""Augmentation of a batch of small images at once, from one random generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Strength:
    """How far images may be changed.

    Attributes:
        degrees: largest rotation to either side.
        zoom: largest change of the scale, as a share.
        shift: largest shift, as a share of the side.
        brightness, contrast: largest change, as a share.
        noise: largest standard deviation of pixel noise, in [0, 1].
    """

    degrees: float
    zoom: float
    shift: float
    brightness: float
    contrast: float
    noise: float


# All are mild in colour: a stain or a lost edge has to stay what it is. No random erasing, which
# would paint defects.
STRENGTHS: dict[str, Strength] = {
    "light": Strength(degrees=10, zoom=0.05, shift=0.03, brightness=0.05, contrast=0.05, noise=0.0),
    "strong": Strength(
        degrees=180, zoom=0.12, shift=0.06, brightness=0.2, contrast=0.2, noise=0.02
    ),
}


def augmented(images: Tensor, strength: str, generator: torch.Generator) -> Tensor:
    """Flip, rotate, scale, shift, relight each image of a batch by its own random amounts.

    Args:
        images: float32 (B, 3, S, S) in [0, 1], on the CPU.
        strength: `none` returns the images as they are.
        generator: of the CPU; the only source of randomness.

    Returns:
        float32 (B, 3, S, S) in [0, 1].
    """
    if strength == "none":
        return images
    how, count = STRENGTHS[strength], images.shape[0]

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle = uniform(math.radians(how.degrees))
    scale = 1 + uniform(how.zoom)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    # affine_grid counts the side of the image as 2.
    shift = torch.stack([uniform(2 * how.shift), uniform(2 * how.shift)], dim=1)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = torch.stack(
        [
            torch.stack([cos * flip, -sin, shift[:, 0]], dim=1),
            torch.stack([sin * flip, cos, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain = (1 + uniform(how.contrast)).view(-1, 1, 1, 1)
    offset = uniform(how.brightness).view(-1, 1, 1, 1)
    centre = moved.mean(dim=(1, 2, 3), keepdim=True)
    moved = (moved - centre) * gain + centre * (1 + offset)
    if how.noise:
        spread = (torch.rand(count, generator=generator) * how.noise).view(-1, 1, 1, 1)
        moved = moved + torch.randn(moved.shape, generator=generator) * spread
    return moved.clamp(0, 1)


def mixed(
    images: Tensor, targets: Tensor, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image and its target with another of the batch (Zhang et al. 2018, mixup).

    Args:
        images: float32 (B, 3, S, S).
        targets: float32 (B, K), one row of class shares per image.
        alpha: of the Beta(alpha, alpha) that the share of the first image is drawn from; 0 is off.
        generator: of the CPU.
    """
    if alpha == 0:
        return images, targets
    # Beta(a, a) as a quotient of two gammas: torch's own Beta takes no generator.
    shape = torch.full((2,), alpha)
    gammas = torch._standard_gamma(shape, generator=generator)
    share = float(gammas[0] / gammas.sum().clamp_min(1e-12))
    other = torch.randperm(images.shape[0], generator=generator)
    return (
        share * images + (1 - share) * images[other],
        share * targets + (1 - share) * targets[other],
    )

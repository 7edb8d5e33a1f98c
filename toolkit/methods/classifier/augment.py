"""Random rotation, scale, shift and lighting of a batch of images, from one random generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.data.dataset_cards import Symmetry


@dataclass(frozen=True)
class Strength:
    """Largest changes of an image.

    Attributes:
        degrees: rotation to either side, where the product may stand at any angle.
        scale: change of the scale, as a share.
        shift: shift, as a share of the side.
        brightness, contrast: change, as a share.
        noise: standard deviation of pixel noise, in [0, 1].
    """

    degrees: float
    scale: float
    shift: float
    brightness: float
    contrast: float
    noise: float


# Colors change little: a stain has to stay a stain. No random erasing, which would paint defects.
STRENGTHS: dict[str, Strength] = {
    "light": Strength(10, scale=0.05, shift=0.03, brightness=0.05, contrast=0.05, noise=0.0),
    "strong": Strength(180, scale=0.12, shift=0.06, brightness=0.2, contrast=0.2, noise=0.02),
}


_TILT = 3.0
"""Rotation in degrees of a product that stands upright: a larger one could be a defect."""


def augment(
    images: Tensor, strength: str, generator: torch.Generator, *, symmetry: Symmetry
) -> Tensor:
    """Mirror, rotate, scale, shift and relight each image of a batch by its own random amounts.

    torchvision's `RandomAffine` draws once for a whole batch, and fills borders with one color,
    which a network could take for a defect; here borders are reflected.

    Args:
        images: float32 (B, 3, S, S) in [0, 1], on the CPU.
        strength: `none` (returns the images as they are), `light` or `strong`.
        generator: of the CPU; the only source of randomness.
        symmetry: which mirror images and rotations look like another good product.

    Returns:
        float32 (B, 3, S, S) in [0, 1].
    """
    if strength == "none":
        return images
    limits, count = STRENGTHS[strength], images.shape[0]

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    def signs(allowed: bool) -> Tensor:
        drawn = torch.rand(count, generator=generator) < 0.5
        return torch.where(drawn, -1.0, 1.0) if allowed else torch.ones(count)

    freely = symmetry.rotation == "any"
    angle = uniform(math.radians(limits.degrees if freely else _TILT))
    mirror, flip = signs("horizontal" in symmetry.flips), signs("vertical" in symmetry.flips)
    half_turn = signs(symmetry.rotation == "half")
    mirror, flip = mirror * half_turn, flip * half_turn
    scale = 1 + uniform(limits.scale)
    # affine_grid counts the side of the image as 2.
    x, y = uniform(2 * limits.shift), uniform(2 * limits.shift)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = [
        torch.stack([cos * mirror, -sin * flip, x], 1),
        torch.stack([sin * mirror, cos * flip, y], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain = (1 + uniform(limits.contrast)).view(-1, 1, 1, 1)
    offset = uniform(limits.brightness).view(-1, 1, 1, 1)
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    moved = (moved - mean) * gain + mean * (1 + offset)
    if limits.noise:
        std = (torch.rand(count, generator=generator) * limits.noise).view(-1, 1, 1, 1)
        moved = moved + torch.randn(moved.shape, generator=generator) * std
    return moved.clamp(0, 1)

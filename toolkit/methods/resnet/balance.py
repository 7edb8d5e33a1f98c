"""Simple remedies for class imbalance: draw rare classes more often, or weigh them more."""

from __future__ import annotations

import torch
from torch import Tensor


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Return weights n / (K · n_c), so that every class has the same weight in sum.

    Args:
        labels: int64 (n,); every class occurs.
        classes: number of classes K.

    Returns:
        float32 (K,); their mean over the images is 1.
    """
    counts = torch.bincount(labels, minlength=classes).float()
    return len(labels) / (classes * counts)


def epoch_order(
    labels: Tensor, classes: int, balance: str, generator: torch.Generator, *, count: int = 0
) -> Tensor:
    """Return the indices of one epoch's images in their order.

    With `sampler` they are drawn with replacement, every class equally often on average; else
    they are the start of a permutation.

    Args:
        labels: int64 (n,).
        classes: number of classes.
        balance: as in the settings.
        generator: of the CPU.
        count: how many images; 0 takes n. More than n only with `sampler`.
    """
    count = count or len(labels)
    if balance == "sampler":
        weights = class_weights(labels, classes)[labels]
        return torch.multinomial(weights, count, replacement=True, generator=generator)
    return torch.randperm(len(labels), generator=generator)[:count]


def loss_weights(labels: Tensor, classes: int, balance: str) -> Tensor | None:
    """Return the class weights of the loss, or None."""
    return class_weights(labels, classes) if balance == "class-weights" else None

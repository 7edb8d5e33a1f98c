"""Which images an epoch shows, and how often."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.imbalance.weights import class_counts, inverse_frequency_weights


def shuffled_order(labels: Tensor, generator: torch.Generator, *, count: int = 0) -> Tensor:
    """Return the indices of an epoch in which no image comes twice.

    Args:
        labels: int64 (n,).
        generator: of the CPU.
        count: how many images, at most n; 0 takes n.

    Returns:
        int64 (count,): the start of a permutation.
    """
    return torch.randperm(len(labels), generator=generator)[: count or len(labels)]


def balanced_order(
    labels: Tensor, classes: int, generator: torch.Generator, *, count: int = 0
) -> Tensor:
    """Draw the indices of an epoch with replacement, every class equally often on average.

    Class-balanced sampling in the words of Kang et al., Decoupling Representation and Classifier
    for Long-Tailed Recognition, ICLR 2020, equation 1 with q = 0.

    Args:
        labels: int64 (n,); every class occurs.
        classes: number of classes.
        generator: of the CPU.
        count: how many images; 0 takes n.

    Returns:
        int64 (count,).
    """
    weights = inverse_frequency_weights(class_counts(labels, classes))[labels]
    return torch.multinomial(weights, count or len(labels), replacement=True, generator=generator)

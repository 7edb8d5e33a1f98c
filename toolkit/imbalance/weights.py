"""Class weights of a loss, from the number of images per class."""

from __future__ import annotations

import torch
from torch import Tensor


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """Count the images of each class.

    Args:
        labels: int64 (n,).
        classes: number of classes K.

    Returns:
        int64 (K,).
    """
    return torch.bincount(labels, minlength=classes)


def inverse_frequency_weights(counts: Tensor) -> Tensor:
    """Return weights n / (K · n_c), so that every class has the same weight in sum.

    The "balanced" heuristic of King and Zeng, Logistic Regression in Rare Events Data, 2001.

    Args:
        counts: int64 (K,), all above 0.

    Returns:
        float32 (K,); their mean over the images is 1.
    """
    counts = counts.float()
    return counts.sum() / (len(counts) * counts)


def effective_number_weights(counts: Tensor, beta: float) -> Tensor:
    """Return weights in proportion to (1 − β) / (1 − β^n_c).

    (1 − βⁿ) / (1 − β) is the effective number of n images that overlap each other (Cui et al.,
    Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019, equation 2). β = 0 weighs
    nothing, β → 1 weighs by the inverse frequency.

    Args:
        counts: int64 (K,), all above 0.
        beta: from 0 to below 1.

    Returns:
        float32 (K,); their sum is K, as in the paper.
    """
    # In double precision, or 1 − β^n loses its digits where β is close to 1.
    weights = (1 - beta) / (1 - torch.pow(torch.tensor(beta, dtype=torch.float64), counts.double()))
    return (weights * len(counts) / weights.sum()).float()

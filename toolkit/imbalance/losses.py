"""Class weights, losses and logits that depend on how rare each class is.

Targets are shares of classes, so that mixup and label smoothing work with every loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float) -> Tensor:
    """Return the mean of −Σ_k t_k (1 − p_k)^γ log p_k.

    The focal loss of Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equation 4, over
    a softmax and without the factor α: images that are recognized already count less, however rare
    their class is. γ = 0 is cross-entropy. torchvision's `sigmoid_focal_loss` treats every class
    as a yes-or-no question of its own, so it fits two classes only.

    Args:
        logits: float (B, K).
        targets: float (B, K), shares that sum to 1 per row.
        gamma: 0 or more.
    """
    log_p = F.log_softmax(logits, dim=1)
    # 1 − p through expm1 would be exact; the clamp keeps the gradient of a power below 1 finite.
    missing = (1 - log_p.exp()).clamp_min(1e-12)
    return -(targets * missing**gamma * log_p).sum(dim=1).mean()


def balanced_softmax_logits(logits: Tensor, counts: Tensor) -> Tensor:
    """Return z + log n: logits whose cross-entropy is the balanced softmax loss.

    Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition, NeurIPS 2020, equation 4:
    the softmax that is trained is n_k e^(z_k) / Σ n_j e^(z_j), so the plain softmax that is used
    afterwards is that of a balanced world. For training only.

    Args:
        logits: float (B, K).
        counts: int64 (K,), images per class, all above 0.
    """
    return logits + counts.to(logits).log()


def logit_shift(counts: Tensor, tau: float) -> Tensor:
    """Return −τ · log π_k, which is added to the logits of a network that was trained as usual.

    Post-hoc logit adjustment: Menon et al., Long-tail Learning via Logit Adjustment, ICLR 2021,
    equation 9, with the class shares π of the training part.

    Args:
        counts: int64 (K,), images per class, all above 0.
        tau: 0 changes nothing, 1 is the balanced error's optimum for calibrated logits.

    Returns:
        float32 (K,).
    """
    return -tau * (counts.double() / counts.sum()).log().float()

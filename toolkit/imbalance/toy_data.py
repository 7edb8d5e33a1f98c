"""Scikit-learn's handwritten digits with a long tail: small enough to see what a remedy does."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 16
"""Side in pixels that the digits, 8 x 8, are enlarged to."""
NAMES = tuple(str(digit) for digit in range(10))
_GREY_LEVELS = 16


def load_digits() -> tuple[Tensor, Tensor]:
    """Return all 1797 digits: uint8 (n, 1, 16, 16) and int64 (n,)."""
    from sklearn import datasets

    found = datasets.load_digits()
    images = torch.from_numpy(found.images).float()[:, None] * (255 / _GREY_LEVELS)
    grown = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear")
    return grown.round().clamp(0, 255).to(torch.uint8), torch.from_numpy(found.target).long()


def long_tail_counts(largest: int, smallest: int, classes: int) -> list[int]:
    """Return class sizes that fall exponentially.

    n_c = n_0 · (n_last / n_0)^(c / (K − 1)), as Cui et al. 2019 make their long-tailed sets.
    """
    ratio = smallest / largest
    return [round(largest * ratio ** (c / (classes - 1))) for c in range(classes)]


def split_long_tail(
    labels: Tensor, counts: list[int], *, test_per_class: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draw a long-tailed training part and a balanced test part that do not overlap.

    Args:
        labels: int64 (n,).
        counts: training images per class.
        test_per_class: test images per class.
        seed: of the draw.

    Returns:
        int64 indices of the training and the test part.
    """
    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    for label, count in enumerate(counts):
        own = torch.nonzero(labels == label).flatten()
        own = own[torch.randperm(len(own), generator=generator)]
        test.append(own[:test_per_class])
        train.append(own[test_per_class : test_per_class + count])
    return torch.cat(train), torch.cat(test)

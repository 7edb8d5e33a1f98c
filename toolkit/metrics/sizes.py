"""Sizes of defects, as shares of the image, so that they mean the same at every resolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

SIZES = ("small", "medium", "large")
SIZE_EDGES = (0.01, 0.05)
"""Small: under 1 % of the image; medium: under 5 %; large: the rest."""


def size_names(shares: ArrayLike) -> list[str]:
    """Return the size of each region or box.

    Args:
        shares: float[n], area divided by that of the image.
    """
    return [SIZES[int(i)] for i in np.digitize(np.asarray(shares, np.float64), SIZE_EDGES)]

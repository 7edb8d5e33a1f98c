"""Do good images lie alike? How much of what differs within images is a matter of place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.images import read_rgb
from toolkit.data.types import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIGNED = 0.5
"""Alignment from which a place means something: parts lie in a fixture, not in any pose."""
_SIDE = 32
_IMAGES = 32


def alignment(images: Sequence[NDArray[np.uint8]]) -> float:
    """Return the share of the variance of good images' edges that their place explains.

    Images are shrunk to 32 × 32 grey pixels and filtered by a Laplacian, which leaves outlines and
    takes away an uneven light that all images share. The share is 1 minus the variance about the
    mean image, divided by the mean square.

    Example:
        >>> import numpy as np
        >>> image = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        >>> alignment([image, image])
        1.0

    Args:
        images: uint8 arrays (H, W, 3) of any sizes.

    Returns:
        About 0 for textures and for parts in any pose, 1 for parts that all lie alike; 0 for fewer
        than two images and for images without edges.
    """
    if len(images) < 2:
        return 0.0
    edges = np.stack([_edges(image) for image in images])
    total = float(np.square(edges).mean())
    if total < 1e-6:
        return 0.0
    within = float(edges.var(axis=0, ddof=1).mean())
    return max(0.0, 1.0 - within / total)


def alignment_of(good: Sequence[Sample]) -> float:
    """Return the `alignment` of an even choice of at most 32 good images.

    Args:
        good: samples without defects.

    Raises:
        DataError: an image cannot be read.
    """
    chosen = {int(i) for i in np.linspace(0, len(good) - 1, _IMAGES)} if good else set()
    return alignment([read_rgb(good[i].image) for i in sorted(chosen)])


def _edges(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray(cv2.Laplacian(cv2.GaussianBlur(small, (0, 0), 1.0), cv2.CV_32F), np.float32)

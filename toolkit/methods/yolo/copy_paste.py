"""Copy-paste augmentation: defects of training images on good ones, where a defect can be.

Cut out by their masks (Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for
Instance Segmentation", CVPR 2021), but not pasted anywhere: a defect keeps its place on the
product, up to the product's symmetry and a small shift, since a chip of the rim is no chip in the
middle. Its edge is blended.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.dataset_cards import Symmetry
from toolkit.data.images import read_rgb, read_truth
from toolkit.data.types import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FRAME = 0.02  # width of the border strip that shows the background, of the shorter side
_SHIFT = 0.02  # standard deviation of the shift, of the longer side
_TOLERANCE = 0.05  # by this much less a defect may lie on the product than in its own image
_FEATHER = 0.006  # width of the blended edge, of the longer side
_MIN_VISIBLE = 0.5  # share of a defect's pixels that stay inside the image
_TRIES = 20


def product_mask(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Separate the product from an even background.

    The largest region whose colour differs from the image's border by more than Otsu's threshold,
    holes filled. Where the border is not even (textures), everything is product.

    Args:
        image: uint8 array (H, W, 3).

    Returns:
        bool array (H, W).
    """
    import cv2

    height, width = image.shape[:2]
    strip = max(1, round(min(height, width) * _FRAME))
    frame = np.ones((height, width), np.bool_)
    frame[strip:-strip, strip:-strip] = False
    colour = np.median(image[frame], axis=0)
    distance = np.abs(image.astype(np.int16) - colour.astype(np.int16)).max(axis=2)
    grey = np.minimum(distance, 255).astype(np.uint8)
    _, differs = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if differs[frame].mean() > 0.25 or not differs.any():
        return np.ones((height, width), np.bool_)
    contours, _ = cv2.findContours(differs, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = np.zeros_like(differs)
    cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    product: NDArray[np.bool_] = filled.astype(np.bool_)
    return product


def paste(
    source: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    target: NDArray[np.uint8],
    *,
    symmetry: Symmetry,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
    """Paste a defect onto a good image at a place where it could be.

    Args:
        source: uint8 array (H, W, 3), the defective image.
        mask: bool array (H, W) of its defect.
        target: uint8 array (h, w, 3), the good image.
        symmetry: of the product; the defect is mirrored and turned as it allows, about the
            product's middle.
        rng: source of randomness.

    Returns:
        The image (h, w, 3) and the mask (h, w) of the pasted defect; None where no place was found
        that lies on the product as much as the defect does in its own image.
    """
    import cv2

    on_source, on_target = product_mask(source), product_mask(target)
    inside = float(on_source[mask].mean())
    size = (target.shape[1], target.shape[0])
    for _ in range(_TRIES):
        matrix = _random_transform(on_source, on_target, symmetry=symmetry, rng=rng)
        moved = cv2.warpAffine(mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST) > 0
        if moved.sum() < max(1.0, _MIN_VISIBLE * mask.sum()):
            continue
        if float(on_target[moved].mean()) >= inside - _TOLERANCE:
            warped = cv2.warpAffine(
                source, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            return _blend(warped, moved, target), moved
    return None


def pasted_images(
    train: Sequence[Sample], *, per_image: int, symmetry: Symmetry, seed: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_], str]]:
    """Make training images by pasting each defect onto several good images.

    Args:
        train: the training part; nothing else is read.
        per_image: images to make of each defective one; fewer where no place is found.
        symmetry: of the product.
        seed: of everything that is drawn.

    Yields:
        An RGB image (H, W, 3), the mask (H, W) of its pasted defect, and the defect's type.

    Raises:
        DataError: an image or mask cannot be read.
    """
    good = [s for s in train if not s.is_defect]
    if not good:
        return
    rng = np.random.default_rng(seed)
    for sample in (s for s in train if s.has_mask and len(s.region_labels) == 1):
        source, mask = read_rgb(sample.image), read_truth(sample)
        if not mask.any():
            continue
        for index in rng.choice(len(good), size=per_image, replace=per_image > len(good)):
            made = paste(source, mask, read_rgb(good[index].image), symmetry=symmetry, rng=rng)
            if made is not None:
                yield *made, sample.region_labels[0]


def _random_transform(
    on_source: NDArray[np.bool_],
    on_target: NDArray[np.bool_],
    *,
    symmetry: Symmetry,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw a matrix (2, 3) that carries the source's product onto the target's."""
    degrees = {"any": rng.uniform(0, 360), "half": 180.0 * rng.integers(2)}.get(
        symmetry.rotation, 0.0
    )
    turn = math.radians(degrees)
    linear = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    mirror = [
        -1.0 if flip in symmetry.flips and rng.integers(2) else 1.0
        for flip in ("horizontal", "vertical")
    ]
    linear = linear @ np.diag(mirror)
    shift = rng.normal(0.0, _SHIFT * max(on_target.shape), 2)
    offset = _middle(on_target) + shift - linear @ _middle(on_source)
    return np.column_stack([linear, offset])


def _middle(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the centre x, y of the mask's bounding box."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0] + columns[-1], rows[0] + rows[-1]], np.float64) / 2


def _blend(
    defect: NDArray[np.uint8], mask: NDArray[np.bool_], target: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Lay the defect over the target; outside the mask it fades over a narrow edge."""
    import cv2

    width = max(1.0, _FEATHER * max(mask.shape))
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    alpha = np.clip(1 - distance / (width + 1), 0, 1)[..., None]
    mixed: NDArray[np.uint8] = np.rint(alpha * defect + (1 - alpha) * target).astype(np.uint8)
    return mixed

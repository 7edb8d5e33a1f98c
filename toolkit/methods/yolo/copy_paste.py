"""Defects of training images pasted onto good training images, where a defect can be.

Cut out by their masks (Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for
Instance Segmentation", CVPR 2021), but not anywhere: a defect keeps its place on the product, up to
the product's symmetry and a small shift, since a chip of the rim is no chip in the middle. Its edge
is blended. Further defects may stand beside it, smaller than in their own images: where pictures
show one defect each, a detector learns to overlook a second one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.dataset_cards import Symmetry
from toolkit.data.images import read_rgb, read_truth
from toolkit.data.regions import Region, regions_of
from toolkit.data.types import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FRAME = 0.02  # of the shorter side: the border strip that shows the background
_SHIFT = 0.02  # of the longer side: the standard deviation of the shift
_LOOSENESS = 0.05  # so much less of a defect may lie on the product than in its own image
_FEATHER = 0.006  # of the longer side: the width of the blended edge
_SMALLEST = 0.5  # of its pixels at least stay inside the picture
_GAP = 7  # pixels at least between two defects
_LARGEST = 0.999  # so that also the smallest of its type is moved and resampled
_TRIES = 20


@dataclass(frozen=True)
class Pasted:
    """A good image that was given defects.

    Attributes:
        image: uint8 array (H, W, 3), RGB.
        masks: bool arrays (H, W), where each defect is.
        labels: their defect types.
    """

    image: NDArray[np.uint8]
    masks: tuple[NDArray[np.bool_], ...]
    labels: tuple[str, ...]


def product_mask(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell the product from an even background.

    What differs from the colour of the image's frame by more than Otsu's threshold, holes filled.
    Where the frame is not even (textures, which fill the image), everything is product.

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
    largest = max(contours, key=cv2.contourArea)
    filled = np.zeros_like(differs)
    cv2.drawContours(filled, [largest], -1, 1, cv2.FILLED)
    product: NDArray[np.bool_] = filled.astype(np.bool_)
    return product


def paste(
    source: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    target: NDArray[np.uint8],
    *,
    symmetry: Symmetry,
    rng: np.random.Generator,
    shrink: float | None = None,
    taken: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
    """Paste a defect onto a good image at a place where it could be.

    Args:
        source: uint8 array (H, W, 3), the defective image.
        mask: bool array (H, W), its defect.
        target: uint8 array (h, w, 3), the good image, or one with a defect pasted.
        symmetry: of the product; the defect is mirrored and turned as this allows, about the
            product's middle.
        rng: draws the view and the shift.
        shrink: factor below 1 of the defect's size, about one of its points; None as it is.
        taken: bool array (h, w), where defects are that it must not touch.

    Returns:
        The image and the mask of the pasted defect, (h, w, 3) and (h, w); None where no place was
        found that lies on the product as much as the defect does in its own image.
    """
    import cv2

    on_source, on_target = product_mask(source), product_mask(target)
    inside = float(on_source[mask].mean())
    size = (target.shape[1], target.shape[0])
    points = np.argwhere(mask)[:, ::-1].astype(np.float64)
    if shrink is not None:  # against aliasing
        source = cv2.GaussianBlur(source, (0, 0), 0.4 * (1 / shrink - 1) + 0.01)
    if taken is not None:
        side = 2 * _GAP + 1
        taken = cv2.dilate(taken.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    for _ in range(_TRIES):
        matrix = _view(on_source, on_target, symmetry=symmetry, rng=rng)
        if shrink is not None:
            matrix = _shrunk_about(points[rng.integers(len(points))], matrix, factor=shrink)
        moved = cv2.warpAffine(mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST) > 0
        scale = abs(float(np.linalg.det(matrix[:, :2])))
        if moved.sum() < max(1.0, _SMALLEST * scale * mask.sum()):
            continue  # mostly outside the picture
        if taken is not None and (moved & taken).any():
            continue
        if float(on_target[moved].mean()) >= inside - _LOOSENESS:
            warped = cv2.warpAffine(
                source, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            return _blend(warped, moved, target), moved
    return None


def pasted_images(
    train: Sequence[Sample], *, per_defect: int, beside: int, symmetry: Symmetry, seed: int
) -> Iterator[Pasted]:
    """Make training images by pasting each defect onto several good images.

    Args:
        train: the training part; nothing else is read.
        per_defect: images to make of each defective one; fewer where no place is found.
        beside: up to so many further defects join it, drawn from the part and shrunk to any size
            that their type shows there, since a type may be known by its size.
        symmetry: of the product.
        seed: decides everything that is drawn.

    Raises:
        DataError: an image or mask cannot be read.
    """
    good = [s for s in train if not s.is_defect]
    if not good:
        return
    rng = np.random.default_rng(seed)
    defects = [s for s in train if s.masks]
    sizes = {s.id: [_longest(r) for r in regions_of(read_truth(s))] for s in defects}
    defects = [s for s in defects if sizes[s.id]]
    smallest = {
        label: min(min(sizes[s.id]) for s in defects if s.label == label)
        for label in {s.label for s in defects}
    }
    for sample in defects:
        source, mask = read_rgb(sample.image), read_truth(sample)
        chosen = rng.choice(len(good), size=per_defect, replace=per_defect > len(good))
        for index in chosen:
            made = paste(source, mask, read_rgb(good[index].image), symmetry=symmetry, rng=rng)
            if made is None:
                continue
            image, taken = made
            found = [(taken, sample.label)]
            for _ in range(rng.integers(beside + 1) if beside else 0):
                other = defects[rng.integers(len(defects))]
                ratio = smallest[other.label] / max(sizes[other.id])
                more = paste(
                    read_rgb(other.image), read_truth(other), image, symmetry=symmetry, rng=rng,
                    shrink=min(ratio ** rng.random(), _LARGEST), taken=taken,
                )  # fmt: skip
                if more is not None:
                    image, taken = more[0], taken | more[1]
                    found.append((more[1], other.label))
            masks, labels = zip(*found, strict=True)
            yield Pasted(image=image, masks=masks, labels=labels)


def _longest(region: Region) -> int:
    x0, y0, x1, y1 = region.box_xyxy
    return max(x1 - x0, y1 - y0)


def _view(
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
        -1.0 if way in symmetry.flips and rng.integers(2) else 1.0
        for way in ("horizontal", "vertical")
    ]
    linear = linear @ np.diag(mirror)
    shift = rng.normal(0.0, _SHIFT * max(on_target.shape), 2)
    offset = _middle(on_target) + shift - linear @ _middle(on_source)
    return np.column_stack([linear, offset])


def _shrunk_about(
    point: NDArray[np.float64], matrix: NDArray[np.float64], *, factor: float
) -> NDArray[np.float64]:
    """Let a matrix (2, 3) shrink what it moves, and move one point x, y as before."""
    linear = matrix[:, :2] * factor
    place = matrix[:, :2] @ point + matrix[:, 2]
    return np.column_stack([linear, place - linear @ point])


def _middle(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Centre x, y of the mask's bounding box."""
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

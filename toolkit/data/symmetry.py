"""Symmetry and alignment of a product, measured on its good images where no data card names them.

A view (a flip or a turn) is plausible where turned images are about as near to other good images as
unturned ones are. That is cautious: a view that the good images do not have counts as a change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.alignment import alignment
from toolkit.data.dataset_cards import Symmetry, card_names, load_card
from toolkit.data.images import read_rgb
from toolkit.data.splits import hashed_order
from toolkit.data.types import Dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 48
_MEDIUM_SIDE = 128
_MOST_IMAGES = 40
_FEWEST_IMAGES = 5
_LIKE = 0.12
"""Largest change at which a view is plausible: bottle has 0.03 to 0.07 in every view, the mirrored
transistor 0.17 and all its other views 0.6 or more."""


@dataclass(frozen=True, slots=True)
class ProductPose:
    """What is known of the pose of a product.

    Attributes:
        symmetry: of the data card, or measured; None with too few good images and no card.
        source: `card` or `good images`.
        alignment: see `toolkit.data.alignment.alignment`; None with too few good images.
        changes: by view, how much further turned images are from other good images than unturned
            ones, as a share of the image's contrast (median); empty with too few images.
    """

    symmetry: Symmetry | None
    source: str
    alignment: float | None
    changes: dict[str, float]


def product_pose(dataset: Dataset) -> ProductPose:
    """Measure symmetry and alignment on good images, those of `train/` first; a card comes first.

    Raises:
        DataError: an image cannot be read.
    """
    good = [s for s in dataset if not s.is_defect]
    some = {s.id: s for s in good if s.part == "train"} or {s.id: s for s in good}
    ids = hashed_order(some, "pose")[:_MOST_IMAGES]
    card = load_card(dataset.name).symmetry if dataset.name in card_names() else None
    source = "card" if card is not None else "good images"
    if len(ids) < _FEWEST_IMAGES:
        return ProductPose(card, source, None, {})
    medium = [_square(read_rgb(some[key].image), _MEDIUM_SIDE) for key in ids]
    changes = view_changes([_square(image, _SIDE) for image in medium])
    return ProductPose(card or _symmetry(changes), source, alignment(medium), changes)


def view_changes(images: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """Return, by view, how much further turned images are from others than unturned ones.

    Args:
        images: at least two, RGB, all of one square size (S, S, 3).
    """
    base = np.stack([_plain(image) for image in images])
    own = _nearest(base, base)
    contrast = np.maximum(np.linalg.norm(base, axis=1), 1e-9)
    changes = {}
    for name, turn in _VIEWS.items():
        turned = np.stack([_plain(turn(image)) for image in images])
        changes[name] = float(np.median((_nearest(turned, base) - own) / contrast))
    return changes


def _symmetry(changes: dict[str, float]) -> Symmetry:
    plausible = {name for name, change in changes.items() if change <= _LIKE}
    rotation = "half" if "half turn" in plausible else "none"
    if {"half turn", "quarter turn", "turn by 45 degrees"} <= plausible:
        rotation = "any"
    return Symmetry(tuple(f for f in ("horizontal", "vertical") if f in plausible), rotation)


def _eighth(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    side = image.shape[0]
    centre = ((side - 1) / 2, (side - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, 45, 1)
    turned = cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned, np.uint8)


_VIEWS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "horizontal": lambda image: image[:, ::-1],
    "vertical": lambda image: image[::-1],
    "half turn": lambda image: image[::-1, ::-1],
    "quarter turn": lambda image: np.rot90(image),
    "turn by 45 degrees": _eighth,
}


def _square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    import cv2

    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _plain(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the pixels within the circle that every turn keeps, without their mean."""
    side = image.shape[0]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = image[x**2 + y**2 <= (side / 2) ** 2].astype(np.float64)
    return np.asarray(inside - inside.mean(axis=0), np.float64).ravel()


def _nearest(turned: NDArray[np.float64], base: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each image to the nearest of the others (never to its own copy)."""
    squared = (turned**2).sum(1)[:, None] + (base**2).sum(1) - 2 * turned @ base.T
    np.fill_diagonal(squared, np.inf)
    return np.asarray(np.sqrt(np.maximum(squared.min(axis=1), 0)), np.float64)

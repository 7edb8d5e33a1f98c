"""Several views of one image, which a symmetric product allows, and their boxes as one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.dataset_cards import Symmetry
from toolkit.prediction import Boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAME_DEFECT = 0.55
"""Boxes of two views that overlap by more (IoU) are one, as in the paper of `fuse`."""


@dataclass(frozen=True)
class View:
    """One of the eight views of a picture that move pixels without mixing them.

    Attributes:
        turns: quarter turns anticlockwise, 0 to 3, made first.
        mirrored: whether left and right are then exchanged.
    """

    turns: int = 0
    mirrored: bool = False

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the view, uint8 array of shape (H, W, 3) or (W, H, 3)."""
        turned = np.rot90(image, self.turns)
        return np.ascontiguousarray(turned[:, ::-1] if self.mirrored else turned)

    def back(self, xyxy: NDArray[np.float32], size_wh: tuple[int, int]) -> NDArray[np.float32]:
        """Carry boxes of the view back to the picture.

        Args:
            xyxy: float array (n, 4), half-open pixels of the view.
            size_wh: width and height of the picture, not of the view.
        """
        width, height = size_wh if self.turns % 2 == 0 else size_wh[::-1]
        x0, y0, x1, y1 = np.asarray(xyxy).T
        if self.mirrored:
            x0, x1 = width - x1, width - x0
        for _ in range(self.turns):  # a quarter turn clockwise
            x0, y0, x1, y1 = height - y1, x0, height - y0, x1
            width, height = height, width
        return np.stack([x0, y0, x1, y1], axis=1).astype(np.float32)


PLAIN = View()


def allowed_views(symmetry: Symmetry) -> tuple[View, ...]:
    """Return the views in which a good product looks like a good product, the plain one first."""
    turns = {"any": (0, 1, 2, 3), "half": (0, 2)}.get(symmetry.rotation, (0,))
    views = {View(t) for t in turns}
    if "horizontal" in symmetry.flips:
        views |= {View(t, mirrored=True) for t in turns}
    if "vertical" in symmetry.flips:  # upside down is half a turn, mirrored
        views |= {View((t + 2) % 4, mirrored=True) for t in turns}
    if {"horizontal", "vertical"} <= set(symmetry.flips):
        views |= {View((view.turns + 2) % 4, view.mirrored) for view in views}
    return tuple(sorted(views, key=lambda view: (view.mirrored, view.turns)))


def fuse(answers: Sequence[Boxes]) -> Boxes:
    """Join the boxes of several views by weighted box fusion.

    Boxes of one class that overlap become their mean, weighted by score; its score is the sum of
    theirs over the number of views, so that what one view alone sees counts little (Solovyev, Wang,
    Gabruseva, "Weighted boxes fusion", Image and Vision Computing 107, 2021). Of two boxes of one
    view in the same place the second opens no place of its own but is left out, so that a score
    stays within that of a single view. It may fall below the floor that each view keeps; such boxes
    stay, since they rank last and leave no other box a worse place.

    Args:
        answers: one per view, in pixels of the same picture.

    Returns:
        Boxes, best first.
    """
    if len(answers) == 1:
        return answers[0]
    boxes = np.concatenate([a.xyxy for a in answers]).astype(np.float64)
    scores = np.concatenate([a.scores for a in answers]).astype(np.float64)
    labels = np.array([label for a in answers for label in a.labels], dtype=object)
    view = np.repeat(np.arange(len(answers)), [len(a) for a in answers])
    fused: list[tuple[float, NDArray[np.float64], str]] = []
    for label in sorted(set(labels.tolist())):
        of_class = np.flatnonzero(labels == label)
        order = of_class[np.argsort(-scores[of_class], kind="stable")]
        places = _places(boxes[order], scores[order], view[order], n_views=len(answers))
        fused += [(score, box, label) for score, box in places]
    fused.sort(key=lambda one: -one[0])
    if not fused:
        return Boxes.none()
    return Boxes(
        xyxy=np.array([box for _, box, _ in fused], np.float32),
        scores=np.array([score for score, _, _ in fused], np.float32),
        labels=tuple(label for _, _, label in fused),
    )


def _places(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    view: NDArray[np.int64],
    *,
    n_views: int,
) -> list[tuple[float, NDArray[np.float64]]]:
    """Gather boxes of one class, best first, into places; return the score and box of each."""
    mean = np.zeros((len(boxes), 4))
    weight = np.zeros(len(boxes))
    seen = np.zeros((len(boxes), n_views), np.bool_)
    n_places = 0
    for box, score, where in zip(boxes, scores, view, strict=True):
        overlaps = _iou(box, mean[:n_places])
        nearest = int(overlaps.argmax()) if n_places else -1
        if nearest >= 0 and overlaps[nearest] > SAME_DEFECT:
            if seen[nearest, where]:
                continue
        else:
            nearest, n_places = n_places, n_places + 1
        total = weight[nearest] + score
        mean[nearest] = (mean[nearest] * weight[nearest] + box * score) / total
        weight[nearest] = total
        seen[nearest, where] = True
    return [(float(weight[i]) / n_views, mean[i]) for i in range(n_places)]


def _iou(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area = (box[2] - box[0]) * (box[3] - box[1])
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    overlap: NDArray[np.float64] = shared / np.maximum(area + areas - shared, 1e-12)
    return overlap

"""Boxes of a detector: from images that fit it to boxes of the image, joined over views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE_FLOOR = 0.001
"""Boxes below it are dropped: low enough for any mAP, and what COCO evaluations keep."""
FUSION_IOU = 0.55
"""Boxes of two views with a higher IoU are one, as in the paper of `weighted_boxes_fusion`."""

_BILINEAR_LIMIT = 2.1
_PADDING = 114
_BLOCK = 512  # boxes that are compared with each other at once


class Found(NamedTuple):
    """Boxes: float32 (n, 4) half-open pixels `x0, y0, x1, y1`, scores (n,), and n class names."""

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: tuple[str, ...]


def resize(image: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image so that every pixel counts: by halves, then bilinearly.

    Bilinear interpolation averages two pixels per axis, which loses nothing down to about one
    half, and two halves are an average over four. OpenCV's area interpolation sees every pixel
    too, but for factors that are no whole numbers it takes eight times as long.

    Example:
        >>> resize(np.arange(16, dtype=np.uint8).reshape(4, 4), (1, 1)).tolist()
        [[8]]

    Args:
        image: uint8 array (H, W) or (H, W, 3).
        size_wh: width and height wanted.
    """
    import cv2

    while True:
        height, width = image.shape[:2]
        if (width, height) == size_wh:
            return image
        step_wh = (
            wanted if own <= _BILINEAR_LIMIT * wanted else (own + 1) // 2
            for own, wanted in zip((width, height), size_wh, strict=True)
        )
        image = np.asarray(
            cv2.resize(image, tuple(step_wh), interpolation=cv2.INTER_LINEAR), np.uint8
        )


def resize_longest(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Resize an image to a longest side, every pixel counting; a smaller one is unchanged."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return resize(image, size)


def letterbox(
    image: NDArray[np.uint8], longest: int, stride: int
) -> tuple[NDArray[np.uint8], tuple[float, float], tuple[int, int]]:
    """Resize an image to fit and pad it to multiples of a stride, as Ultralytics does.

    Returns:
        uint8 array (h, w, 3); the factors of x and y; and the columns and rows of padding before.
    """
    import cv2

    height, width = image.shape[:2]
    side = -(-longest // stride) * stride
    scale = min(side / height, side / width)
    inner = (max(round(width * scale), 1), max(round(height * scale), 1))
    if inner != (width, height):
        image = np.asarray(cv2.resize(image, inner, interpolation=cv2.INTER_LINEAR), np.uint8)
    across, down = ((side - one) % stride / 2 for one in inner)
    left, right, top, bottom = (
        round(across - 0.1), round(across + 0.1), round(down - 0.1), round(down + 0.1)
    )  # fmt: skip
    padded = cv2.copyMakeBorder(
        image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(_PADDING,) * 3
    )
    gains = (inner[0] / width, inner[1] / height)
    return np.ascontiguousarray(padded, np.uint8), gains, (left, top)


def suppress(boxes: NDArray[np.float32], iou: float, *, limit: int) -> NDArray[np.int64]:
    """Return the indices of boxes, best first, that overlap no better one by more than `iou`.

    Args:
        boxes: float32 (n, 4), best first.
        iou: intersection over union.
        limit: boxes that are kept at most.
    """
    left, kept = np.arange(len(boxes)), list[int]()
    while len(left) and len(kept) < limit:
        block, left = left[:_BLOCK], left[_BLOCK:]
        overlaps = _iou(boxes[block], boxes[block]) > np.float32(iou)
        gone, chosen = np.zeros(len(block), np.bool_), list[int]()
        for number in range(len(block)):
            if not gone[number]:
                chosen.append(number)
                gone |= overlaps[number]
        kept += block[chosen].tolist()
        if len(left):
            covered = _iou(boxes[block[chosen]], boxes[left]) > np.float32(iou)
            left = left[~covered.any(axis=0)]
    return np.array(kept[:limit], np.int64)


def _iou(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Return the overlaps (n, m) of boxes (n, 4) with others (m, 4), in their precision."""
    x0, y0, x1, y1 = boxes.T[:, :, None]
    u0, v0, u1, v1 = others.T[:, None, :]
    shared = np.minimum(x1, u1) - np.maximum(x0, u0)
    np.clip(shared, 0, None, out=shared)
    shared *= np.clip(np.minimum(y1, v1) - np.maximum(y0, v0), 0, None)
    areas = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0)
    overlap: NDArray[Any] = shared / np.maximum(areas - shared, areas.dtype.type(1e-12))
    return overlap


def weighted_boxes_fusion(views: Sequence[Found]) -> Found:
    """Join the boxes of several views of one image.

    Solovyev, Wang, Gabruseva, "Weighted boxes fusion", Image and Vision Computing 107, 2021.
    Boxes of one class that overlap become their mean, weighted by score; the score is the sum of
    theirs over the number of views, so that a box of one view alone counts little. A second box of
    one view in the same place is dropped, so that no score exceeds the highest of a single view. A
    fused score may fall below `CONFIDENCE_FLOOR`.

    Args:
        views: boxes of each view, in pixels of the same image.

    Returns:
        Boxes, best first.
    """
    if len(views) == 1:
        return views[0]
    boxes = np.concatenate([v.xyxy for v in views]).astype(np.float64)
    scores = np.concatenate([v.scores for v in views]).astype(np.float64)
    labels = np.array([label for v in views for label in v.labels], dtype=object)
    view = np.repeat(np.arange(len(views)), [len(v.labels) for v in views])
    fused: list[tuple[float, NDArray[np.float64], str]] = []
    for label in sorted(set(labels.tolist())):
        of_class = np.flatnonzero(labels == label)
        order = of_class[np.argsort(-scores[of_class], kind="stable")]
        clusters = _cluster(boxes[order], scores[order], view[order], n_views=len(views))
        fused += [(score, box, label) for score, box in clusters]
    fused.sort(key=lambda one: -one[0])
    return Found(
        xyxy=np.array([box for _, box, _ in fused], np.float32).reshape(-1, 4),
        scores=np.array([score for score, _, _ in fused], np.float32),
        labels=tuple(label for _, _, label in fused),
    )


def _cluster(
    boxes: NDArray[np.float64], scores: NDArray[np.float64], view: NDArray[np.int64], *,
    n_views: int,
) -> list[tuple[float, NDArray[np.float64]]]:  # fmt: skip
    """Cluster boxes of one class, best first; return the score and mean box of each cluster."""
    mean, weight = np.zeros((len(boxes), 4)), np.zeros(len(boxes))
    seen = np.zeros((len(boxes), n_views), np.bool_)
    count = 0
    for box, score, where in zip(boxes, scores, view, strict=True):
        overlaps = _iou(box[None], mean[:count])[0]
        nearest = int(overlaps.argmax()) if count else -1
        if nearest >= 0 and overlaps[nearest] > FUSION_IOU:
            if seen[nearest, where]:
                continue
        else:
            nearest, count = count, count + 1
        total = weight[nearest] + score
        mean[nearest] = (mean[nearest] * weight[nearest] + box * score) / total
        weight[nearest] = total
        seen[nearest, where] = True
    return [(float(weight[i]) / n_views, mean[i]) for i in range(count)]


def turn(array: NDArray[Any], turns: int, *, mirrored: bool) -> NDArray[Any]:
    """Turn an array (H, W, ...) anticlockwise, then exchange left and right if `mirrored`."""
    turned = np.rot90(array, turns, axes=(0, 1))
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def turn_boxes_back(
    boxes_xyxy: NDArray[np.float32], size_wh: tuple[int, int], turns: int, *, mirrored: bool
) -> NDArray[np.float32]:
    """Return boxes (N, 4) of an image after `turn` as boxes of the original of size `size_wh`."""
    width, height = size_wh[::-1] if turns % 2 else size_wh
    x0, y0, x1, y1 = np.asarray(boxes_xyxy).T
    if mirrored:
        x0, x1 = width - x1, width - x0
    for _ in range(turns):  # a quarter turn clockwise
        x0, y0, x1, y1 = height - y1, x0, height - y0, x1
        width, height = height, width
    return np.stack([x0, y0, x1, y1], axis=1).astype(np.float32)

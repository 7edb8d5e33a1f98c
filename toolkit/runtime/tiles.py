"""Detection in overlapping tiles of a large image; without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolkit.runtime.boxes import Found

if TYPE_CHECKING:
    from numpy.typing import NDArray

OVERLAP = 0.25
"""Of neighbouring tiles, as a share of their side."""

_MERGE = 0.5  # share of the smaller box in common above which two views saw one defect
_MARGIN = 0.01  # of a tile's side: a box this near to its border was cut
_CUT_WEIGHT = 0.5  # of the score of a cut box, so that a view of the whole defect wins


def detect_in_tiles(
    image: NDArray[np.uint8], side: int, detect: Callable[[NDArray[np.uint8]], Found]
) -> Found:
    """Detect in the whole image and in its tiles, and merge what they found.

    Of boxes of one class that share half of the smaller one, the best is kept. A box that ends at
    a tile's border shows a part of a defect: its score counts half.

    Args:
        image: uint8 array (H, W, 3).
        side: of a tile in pixels.
        detect: from an image to boxes in its pixels.

    Returns:
        Boxes in pixels of the image, best first.
    """
    whole = detect(image)
    size_wh = (image.shape[1], image.shape[0])
    tiles = tile_boxes(size_wh, side, OVERLAP)
    views = [whole]
    for x0, y0, x1, y1 in tiles if len(tiles) > 1 else []:
        found = detect(image[y0:y1, x0:x1])
        boxes = found.xyxy + np.array([x0, y0, x0, y0], np.float32)
        cut = touches_cut(boxes, (x0, y0, x1, y1), size_wh, margin=_MARGIN * side)
        scores = np.where(cut, found.scores * np.float32(_CUT_WEIGHT), found.scores)
        views.append(Found(boxes, scores, found.labels))
    return merge_views(views)


def merge_views(views: Sequence[Found]) -> Found:
    """Join boxes of overlapping parts of one image, in its pixels; see `detect_in_tiles`."""
    if len(views) == 1:
        return views[0]
    boxes = np.concatenate([view.xyxy for view in views])
    scores = np.concatenate([view.scores for view in views])
    labels = np.array([label for view in views for label in view.labels], dtype=object)
    kept: list[int] = []
    for label in sorted(set(labels.tolist())):
        of_class = np.flatnonzero(labels == label)
        found = keep_largest_scores(boxes[of_class], scores[of_class], _MERGE)
        kept += of_class[found].tolist()
    kept.sort(key=lambda i: -float(scores[i]))
    return Found(boxes[kept], scores[kept], tuple(labels[kept].tolist()))


def tile_starts(length: int, side: int, overlap: float) -> list[int]:
    """Return where overlapping tiles begin that cover a length; the last one ends at its end.

    Example:
        >>> tile_starts(100, 40, 0.25)
        [0, 30, 60]

    Args:
        length: of the image along one axis, in pixels.
        side: of a tile; a longer one begins at 0 and is cut by the image.
        overlap: smallest overlap of neighbours, as a share of the side, below 1. Whatever is not
            longer than the overlap lies in one tile as a whole.
    """
    if length <= side:
        return [0]
    step = max(1, int(side * (1 - overlap)))
    count = -(-(length - side) // step) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def tile_boxes(size_wh: tuple[int, int], side: int, overlap: float) -> list[tuple[int, ...]]:
    """Return overlapping square tiles that cover an image, row by row.

    Args:
        size_wh: width and height of the image.
        side: of a tile in pixels; an image that is smaller cuts it.
        overlap: see `tile_starts`.

    Returns:
        Half-open boxes `(x0, y0, x1, y1)` inside the image.
    """
    width, height = size_wh
    return [
        (x, y, min(x + side, width), min(y + side, height))
        for y in tile_starts(height, side, overlap)
        for x in tile_starts(width, side, overlap)
    ]


def touches_cut(
    boxes_xyxy: NDArray[np.floating],
    tile_xyxy: tuple[int, ...],
    size_wh: tuple[int, int],
    *,
    margin: float,
) -> NDArray[np.bool_]:
    """Return which boxes end at a border of their tile where the image goes on.

    Args:
        boxes_xyxy: array (n, 4), in pixels of the image.
        tile_xyxy: the tile, in pixels of the image.
        size_wh: width and height of the image.
        margin: how near, in pixels, counts as at the border.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    low, high = np.array(tile_xyxy[:2]), np.array(tile_xyxy[2:])
    before = (low > 0) & (boxes[:, :2] <= low + margin)
    after = (high < np.array(size_wh)) & (boxes[:, 2:] >= high - margin)
    return np.asarray((before | after).any(axis=1))


def keep_largest_scores(
    boxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating], limit: float
) -> NDArray[np.int64]:
    """Suppress boxes that a better one covers: non-maximum suppression over the smaller area.

    Unlike the IoU, the share of the smaller box is also high where one box is a part of another,
    as pieces of one object in neighbouring tiles are.

    Args:
        boxes_xyxy: array (n, 4).
        scores: array (n,).
        limit: largest share of the smaller box that two kept boxes have in common.

    Returns:
        Indices of the kept boxes, best first.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        smaller = np.maximum(np.minimum(areas[best], areas[order]), 1e-12)
        order = order[shared <= limit * smaller]
    return np.array(kept, np.int64)

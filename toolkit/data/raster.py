"""Outlines to pixels: polygons, and COCO's run lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Rle(TypedDict):
    """Compressed run lengths of a mask.

    `size` is height, width; `counts` are the runs down the columns, in COCO's text encoding.
    """

    size: list[int]
    counts: str


def fill(polygon_xy: NDArray[np.float64], size_wh: tuple[int, int]) -> NDArray[np.bool_]:
    """Rasterise a polygon: a pixel is inside if its centre is, by the even-odd rule.

    Args:
        polygon_xy: float array (N, 2), one ring.
        size_wh: width and height of the mask.

    Returns:
        bool array (H, W).
    """
    width, height = size_wh
    start, stop = polygon_xy, np.roll(polygon_xy, -1, axis=0)
    low, high = np.minimum(start[:, 1], stop[:, 1]), np.maximum(start[:, 1], stop[:, 1])
    first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64)  # rows [first, last)
    rows_of = last - first
    edge = np.repeat(np.arange(len(start)), rows_of)
    offset = np.arange(len(edge)) - np.repeat(np.cumsum(rows_of) - rows_of, rows_of)
    rows = first[edge] + offset
    slope = (stop[edge] - start[edge])[:, 0] / (stop[edge] - start[edge])[:, 1]
    crossing = start[edge, 0] + (rows + 0.5 - start[edge, 1]) * slope
    columns = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    toggles = np.zeros((height, width + 1), dtype=np.uint8)
    np.add.at(toggles, (rows, columns), 1)
    return (np.add.accumulate(toggles[:, :-1], axis=1, dtype=np.uint8) & 1).astype(np.bool_)


def decode_rle(rle: Rle) -> NDArray[np.bool_]:
    """Return the mask, bool (H, W).

    Raises:
        ValueError: the runs do not fill the image (pycocotools would write past its end).
    """
    height, width = rle["size"]
    runs = _runs(rle["counts"])
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError("run lengths do not fill the image")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _runs(counts: str) -> list[int]:
    """Decode COCO's text encoding: five bits a character, runs from the third on as differences."""
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii"):
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("not the text encoding of run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs

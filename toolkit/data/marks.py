"""Defects that annotation files mark (YOLO, COCO), as regions in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.raster import Rle, decode_rle, fill
from toolkit.data.regions import Region
from toolkit.errors import DataError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.regions import Box
    from toolkit.data.types import Mark


def marked_regions(
    marks: Sequence[Mark], size_wh: tuple[int, int], *, path: Path
) -> list[tuple[str, Region]]:
    """Return the defect type and the region of each mark, in their order.

    A mark is one region, also where its outline has several parts. A box without an outline is
    filled; its sides are rounded to whole pixels, and it has at least one.

    Args:
        marks: of one image.
        size_wh: width and height of the image.
        path: the image, for the message.

    Raises:
        DataError: an outline holds no pixel of the image, or run lengths do not fit it.
    """
    return [(mark.label, _region(mark, size_wh, path)) for mark in marks]


def _region(mark: Mark, size_wh: tuple[int, int], path: Path) -> Region:
    if not mark.has_outline:
        x0, y0, x1, y1 = pixel_box(mark.box, size_wh)
        crop = np.ones((y1 - y0, x1 - x0), np.bool_)
        return Region((x0, y0, x1, y1), crop.size, crop)
    whole = _outlined(mark, size_wh, path)
    rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    if not rows.size:
        raise DataError(
            f"{printable(path)}: an outline of {mark.label} holds no pixel; correct its label"
        )
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    crop = whole[box[1] : box[3], box[0] : box[2]]
    return Region(box, int(crop.sum()), crop)


def _outlined(mark: Mark, size_wh: tuple[int, int], path: Path) -> NDArray[np.bool_]:
    width, height = size_wh
    if mark.rle is not None:
        rows, columns, counts = mark.rle
        try:
            if (columns, rows) != size_wh:
                raise ValueError(f"they are of an image of {columns}x{rows}")
            return decode_rle(Rle(size=[rows, columns], counts=counts))
        except ValueError as error:
            raise DataError(
                f"{printable(path)}: damaged run lengths ({error}); correct its label"
            ) from error
    whole = np.zeros((height, width), np.bool_)
    for ring in mark.polygons:
        whole |= fill(np.array(ring, np.float64).reshape(-1, 2) * size_wh, size_wh)
    return whole


def pixel_box(box: Sequence[float], size_wh: tuple[int, int]) -> Box:
    """Round a box in fractions of the image's sides to pixels; it has at least one.

    Example:
        >>> pixel_box((0.25, 0.5, 0.75, 0.5001), (100, 200))
        (25, 100, 75, 101)
    """
    low, high = [], []
    for start, stop, side in zip(box[:2], box[2:], size_wh, strict=True):
        first = min(max(round(start * side), 0), side - 1)
        low.append(first)
        high.append(min(max(round(stop * side), first + 1), side))
    return low[0], low[1], high[0], high[1]

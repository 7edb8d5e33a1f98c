"""What is done to regions before they are written: joining splinters, resizing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.regions import Region, union_box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.data.regions import Box


def merged(regions: Sequence[Region], *, distance: float) -> list[Region]:
    """Join regions whose nearest pixels are at most `distance` apart, in chains too.

    Distance is Euclidean and between pixel centres: two regions with one empty pixel between them
    are 2 apart.
    """
    groups = list(range(len(regions)))

    def root(i: int) -> int:
        while groups[i] != i:
            groups[i] = groups[groups[i]]
            i = groups[i]
        return i

    for i in range(len(regions)):
        for j in range(i):
            if root(i) != root(j) and _near(regions[i], regions[j], distance):
                groups[root(i)] = root(j)
    members: dict[int, list[Region]] = {}
    for i, region in enumerate(regions):
        members.setdefault(root(i), []).append(region)
    return [joined(group) for group in members.values()]


def _near(a: Region, b: Region, distance: float) -> bool:
    """Whether two regions have pixels at most `distance` apart."""
    reach = int(np.ceil(distance))
    x0, y0, x1, y1 = a.box_xyxy
    grown = (x0 - reach, y0 - reach, x1 + reach, y1 + reach)
    bx0, by0, bx1, by1 = b.box_xyxy
    if bx0 >= grown[2] or grown[0] >= bx1 or by0 >= grown[3] or grown[1] >= by1:
        return False
    import cv2

    # Distance of every pixel of the grown box to `a`, read at the pixels of `b`.
    outside = np.ones((grown[3] - grown[1], grown[2] - grown[0]), dtype=np.uint8)
    outside[reach : reach + y1 - y0, reach : reach + x1 - x0] -= a.crop
    far = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    cx0, cy0 = max(bx0, grown[0]), max(by0, grown[1])
    cx1, cy1 = min(bx1, grown[2]), min(by1, grown[3])
    part = b.crop[cy0 - by0 : cy1 - by0, cx0 - bx0 : cx1 - bx0]
    there = far[cy0 - grown[1] : cy1 - grown[1], cx0 - grown[0] : cx1 - grown[0]]
    return bool((there[part] <= distance + 1e-3).any())


def joined(regions: Sequence[Region]) -> Region:
    """Return one region made of several that share no pixel."""
    if len(regions) == 1:
        return regions[0]
    box = union_box([r.box_xyxy for r in regions])
    crop = np.zeros((box[3] - box[1], box[2] - box[0]), dtype=np.bool_)
    for region in regions:
        x0, y0, x1, y1 = region.box_xyxy
        crop[y0 - box[1] : y1 - box[1], x0 - box[0] : x1 - box[0]] |= region.crop
    return Region(box_xyxy=box, area=sum(r.area for r in regions), crop=crop)


def resized_wh(size_wh: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return the size with its longest side set to `longest`, the aspect kept, at least 1 pixel."""
    width, height = size_wh
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resized(region: Region, *, from_wh: tuple[int, int], to_wh: tuple[int, int]) -> Region:
    """Resize a region with its image.

    A new pixel belongs to the region if its centre, taken back to the old image, lies on a pixel
    of it. A region that no centre falls on becomes one pixel: it never vanishes.
    """
    xs = _sources(region.box_xyxy[0], region.box_xyxy[2], old=from_wh[0], new=to_wh[0])
    ys = _sources(region.box_xyxy[1], region.box_xyxy[3], old=from_wh[1], new=to_wh[1])
    x_new, x_old = xs
    y_new, y_old = ys
    crop = region.crop[np.ix_(y_old, x_old)]
    if not crop.any():
        y, x = (int(v) for v in np.argwhere(region.crop)[region.area // 2])
        x = min(to_wh[0] - 1, int((region.box_xyxy[0] + x + 0.5) * to_wh[0] / from_wh[0]))
        y = min(to_wh[1] - 1, int((region.box_xyxy[1] + y + 0.5) * to_wh[1] / from_wh[1]))
        return Region(box_xyxy=(x, y, x + 1, y + 1), area=1, crop=np.ones((1, 1), dtype=np.bool_))
    return _tight(crop, left=int(x_new[0]), top=int(y_new[0]))


def _sources(
    start: int, stop: int, *, old: int, new: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """New pixel indices whose centres fall into [start, stop), and the old indices inside it."""
    indices = np.arange(new, dtype=np.int64)
    centres = (2 * indices + 1) * old // (2 * new)
    inside = (centres >= start) & (centres < stop)
    return indices[inside], centres[inside] - start


def _tight(crop: np.ndarray[tuple[int, int], np.dtype[np.bool_]], *, left: int, top: int) -> Region:
    rows, columns = np.flatnonzero(crop.any(axis=1)), np.flatnonzero(crop.any(axis=0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    box: Box = (left + x0, top + y0, left + x1, top + y1)
    inner = crop[y0:y1, x0:x1]
    return Region(box_xyxy=box, area=int(inner.sum()), crop=inner)

"""Masks to regions: connected components with exact, half-open, tight boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Box = tuple[int, int, int, int]
_MANY = 32  # so many boxes are more quickly labelled than compared


@dataclass(frozen=True, slots=True)
class Region:
    """One connected component of a mask.

    Attributes:
        box_xyxy: half-open pixel box `(x0, y0, x1, y1)`; the last column is `x1 - 1`.
        area: number of pixels.
        crop: bool array (y1 - y0, x1 - x0), the region's own pixels inside its box.
    """

    box_xyxy: Box
    area: int
    crop: NDArray[np.bool_]

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the box, to index an array of the whole image."""
        x0, y0, x1, y1 = self.box_xyxy
        return slice(y0, y1), slice(x0, x1)

    def mask(self, size_wh: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the region as a bool array (H, W) of the whole image."""
        whole = np.zeros((size_wh[1], size_wh[0]), dtype=np.bool_)
        whole[self.window] = self.crop
        return whole


def regions_of(mask: NDArray[np.bool_], *, connectivity: int = 8) -> list[Region]:
    """Split a mask into its connected components.

    A contour follower finds the boxes ten times as fast as labelling does. Where no two boxes
    overlap, what lies in a box is one region; only otherwise are the pixels labelled, and only in
    the part of the mask that holds any.

    Args:
        mask: bool array (H, W).
        connectivity: 8 (diagonal neighbours touch) or 4.

    Returns:
        Regions in the order of their first pixel, row by row. A crop may be a view of the mask.
    """
    import cv2

    pixels = np.ascontiguousarray(mask).view(np.uint8)
    left, top, width, height = cv2.boundingRect(pixels)
    part = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    if connectivity == 8:
        boxes = _outer_boxes(part, left=left, top=top)
        if _are_apart(boxes):
            regions = [_region(mask, box) for box in boxes]
            return sorted(regions, key=_first_pixel)
    return _labelled(part, connectivity=connectivity, left=left, top=top)


def _outer_boxes(pixels: NDArray[np.uint8], *, left: int, top: int) -> list[Box]:
    """Boxes of the 8-connected components; islands in holes are components of their own."""
    import cv2

    if not pixels.size:
        return []
    # RETR_EXTERNAL would be wrong here: it leaves out an island in a hole.
    contours, hierarchy = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    boxes = []
    for contour, links in zip(contours, hierarchy[0] if contours else (), strict=True):
        if links[3] < 0:  # no parent: an outer border, not a hole's
            x, y, width, height = cv2.boundingRect(contour)
            boxes.append((left + x, top + y, left + x + width, top + y + height))
    return boxes


def _are_apart(boxes: list[Box]) -> bool:
    if len(boxes) > _MANY:
        return False
    return not any(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        for i, a in enumerate(boxes)
        for b in boxes[:i]
    )


def _region(mask: NDArray[np.bool_], box: Box) -> Region:
    import cv2

    crop = mask[box[1] : box[3], box[0] : box[2]]
    return Region(box_xyxy=box, area=cv2.countNonZero(crop.view(np.uint8)), crop=crop)


def _labelled(pixels: NDArray[np.uint8], *, connectivity: int, left: int, top: int) -> list[Region]:
    import cv2

    if not pixels.size:
        return []
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        pixels, connectivity=connectivity, ltype=cv2.CV_32S
    )
    regions = []
    for index in range(1, count):
        x, y, width, height, area = (int(v) for v in stats[index])
        crop = labels[y : y + height, x : x + width] == index
        box = (left + x, top + y, left + x + width, top + y + height)
        regions.append(Region(box_xyxy=box, area=area, crop=crop))
    return sorted(regions, key=_first_pixel)


def _first_pixel(region: Region) -> tuple[int, int]:
    x0, y0, _, _ = region.box_xyxy
    return y0, x0 + int(region.crop[0].argmax())


def union_box(boxes_xyxy: Sequence[Box]) -> Box:
    """Return the smallest box that holds all boxes.

    Raises:
        ValueError: there is no box.
    """
    if not boxes_xyxy:
        raise ValueError("no boxes to join")
    x0s, y0s, x1s, y1s = zip(*boxes_xyxy, strict=True)
    return min(x0s), min(y0s), max(x1s), max(y1s)

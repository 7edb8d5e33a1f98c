"""Masks to regions: connected components with exact, half-open, tight boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Region:
    """One connected component of a mask.

    Attributes:
        box_xyxy: half-open pixel box `(x0, y0, x1, y1)`; the last column is `x1 - 1`.
        area: number of pixels.
        crop: bool array (y1 - y0, x1 - x0), the region's own pixels inside its box.
    """

    box_xyxy: tuple[int, int, int, int]
    area: int
    crop: NDArray[np.bool_]

    def mask(self, size_wh: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the region as a bool array (H, W) of the whole image."""
        whole = np.zeros((size_wh[1], size_wh[0]), dtype=np.bool_)
        x0, y0, x1, y1 = self.box_xyxy
        whole[y0:y1, x0:x1] = self.crop
        return whole


def regions_of(mask: NDArray[np.bool_], *, connectivity: int = 8) -> list[Region]:
    """Split a mask into its connected components.

    Args:
        mask: bool array (H, W).
        connectivity: 8 (diagonal neighbours touch) or 4.

    Returns:
        Regions in the order of their first pixel, row by row.
    """
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.view(np.uint8), connectivity=connectivity, ltype=cv2.CV_32S
    )
    regions = []
    for index in range(1, count):
        x, y, width, height, area = (int(v) for v in stats[index])
        crop = labels[y : y + height, x : x + width] == index
        regions.append(Region(box_xyxy=(x, y, x + width, y + height), area=area, crop=crop))
    return sorted(regions, key=_first_pixel)


def _first_pixel(region: Region) -> tuple[int, int]:
    x0, y0, _, _ = region.box_xyxy
    return y0, x0 + int(region.crop[0].argmax())


def union_box(boxes_xyxy: Sequence[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """Return the smallest box that holds all boxes.

    Raises:
        ValueError: there is no box.
    """
    if not boxes_xyxy:
        raise ValueError("no boxes to join")
    x0s, y0s, x1s, y1s = zip(*boxes_xyxy, strict=True)
    return min(x0s), min(y0s), max(x1s), max(y1s)

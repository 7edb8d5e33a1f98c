"""Target `yolo-seg`: one text file of normalised polygons per image, and a `data.yaml`.

A row is `class x1 y1 x2 y2 …`. One row per region: its holes are joined to the outer ring by seams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.formats.polygons import INSET, outline
from toolkit.formats.yolo import YoloWriter

if TYPE_CHECKING:
    from toolkit.formats.extract import Labelled


class YoloSegWriter(YoloWriter):
    """Writes polygons in YOLO's folders."""

    def shape_text(self, one: Labelled, *, width: int, height: int) -> str:
        """Return the region's outline."""
        points = outline(one.region, inset=INSET) / (width, height)
        return " ".join(f"{value:.7f}" for value in points.ravel().tolist())

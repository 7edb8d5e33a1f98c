"""Masks and boxes as vector layers, so that a picture is stored once and drawn over at any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.prediction import Boxes

SHOWN_BOXES = 10
BOX_CONFIDENCE = 0.25
_TOLERANCE = 0.0015


def mask_path(mask: NDArray[np.bool_]) -> str:
    """Return the outlines of a mask as an SVG path in pixels; empty for an empty mask.

    Holes are outlines of their own: fill it by the even-odd rule. Outlines run through the middle
    of the outermost pixels and are smoothed by at most 0.15 % of the longer side.

    Args:
        mask: bool (H, W).
    """
    import cv2

    tolerance = _TOLERANCE * max(mask.shape)
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    paths = []
    for outline in found:
        points = cv2.approxPolyDP(outline, tolerance, True).reshape(-1, 2)
        if len(points) < 3:  # a speck keeps the extent of its pixels
            x, y, w, h = cv2.boundingRect(outline)
            paths.append(f"M{x} {y}h{w}v{h}h-{w}z")
            continue
        corners = " ".join(f"{x + 0.5:g} {y + 0.5:g}" for x, y in points.tolist())
        paths.append(f"M{corners}z")
    return "".join(paths)


def shown_boxes(
    boxes: Boxes, threshold: float | None
) -> list[tuple[float, float, float, float, float, str]]:
    """Return the best boxes as (x0, y0, x1, y1, score, label), half-open pixels, best first.

    A box is shown from a confidence of 0.25 on. Where none reaches that, the best one is shown if
    it reaches the image-level threshold: no image is flagged for a box that cannot be seen.
    """
    order = np.argsort(-boxes.scores, kind="stable")[:SHOWN_BOXES]
    confident = [int(i) for i in order if boxes.scores[i] >= BOX_CONFIDENCE]
    if not confident and len(order) and threshold is not None:
        confident = [int(order[0])] if boxes.scores[order[0]] >= threshold > 0 else []
    shown = []
    for i in confident:
        x0, y0, x1, y1 = (round(float(v), 1) for v in boxes.xyxy[i])
        shown.append((x0, y0, x1, y1, round(float(boxes.scores[i]), 4), boxes.labels[i]))
    return shown

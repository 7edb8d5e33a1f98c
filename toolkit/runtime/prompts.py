"""Prompts: boxes and clicks as one array of labelled points, as SAM's own decoder takes them.

A prompt is `coords` (N, 2) and `labels` (N,): 1 a click on the object, 0 a click beside it, 2 and 3
the two corners of a box, -1 padding. A click needs one padding point and a box none, so first
prompts of both kinds have two points and a batch can mix them.

Coordinates are pixels (x, y) of the original image, before SAM's resizing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PADDING, NEGATIVE, POSITIVE, BOX_FIRST, BOX_SECOND = -1, 0, 1, 2, 3
_PEAK_RADIUS = 0.05
_PEAK_MIN_SHARE = 0.5


@dataclass(frozen=True)
class Prompt:
    """One prompt for one object.

    Attributes:
        coords: float32 array (N, 2), x and y in pixels.
        labels: int64 array (N,), see the module.
    """

    coords: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def is_box(self) -> bool:
        """Whether it starts with a box."""
        return bool(self.labels[0] == BOX_FIRST)


def box_prompt(box_xyxy: tuple[float, float, float, float]) -> Prompt:
    """Return the prompt of a half-open box; SAM takes the coordinates of the corner pixels.

    Example:
        >>> box_prompt((10, 20, 60, 40)).coords.tolist()
        [[10.0, 20.0], [59.0, 39.0]]

    Raises:
        ValueError: the box is empty.
    """
    x0, y0, x1, y1 = box_xyxy
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"box {box_xyxy} is empty")
    coords = np.array([[x0, y0], [x1 - 1, y1 - 1]], np.float32)
    return Prompt(coords, np.array([BOX_FIRST, BOX_SECOND]))


def click_prompt(x: float, y: float) -> Prompt:
    """Return the prompt of one click on the object."""
    coords = np.array([[x, y], [0, 0]], np.float32)
    return Prompt(coords, np.array([POSITIVE, PADDING]))


def grid_prompts(size_wh: tuple[int, int], points_per_side: int) -> list[Prompt]:
    """Return one click in the middle of each cell of a grid over the image."""
    width, height = size_wh
    steps = (np.arange(points_per_side) + 0.5) / points_per_side
    return [click_prompt(x * width, y * height) for y in steps for x in steps]


def find_peaks(
    anomaly_map: NDArray[np.float32], size_wh: tuple[int, int], *, limit: int
) -> list[tuple[float, float, float]]:
    """Return the highest local maxima of an anomaly map, highest first.

    A peak is the maximum of its neighbourhood (5 % of the longer side each way) and reaches at
    least half the map's range.

    Args:
        anomaly_map: float32 array (h, w) that covers the whole image.
        size_wh: width and height of the image in pixels.
        limit: at most this many.

    Returns:
        x and y in image pixels, and the map's value there.
    """
    import cv2

    height, width = anomaly_map.shape
    radius = max(1, round(max(height, width) * _PEAK_RADIUS))
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    maxima = (anomaly_map >= cv2.dilate(anomaly_map, kernel)) & (
        anomaly_map >= low + _PEAK_MIN_SHARE * (high - low)
    )
    ys, xs = np.nonzero(maxima)
    chosen: list[tuple[float, float, float]] = []
    for index in np.argsort(-anomaly_map[ys, xs], kind="stable"):
        x, y = float(xs[index]), float(ys[index])
        if all(max(abs(x - a), abs(y - b)) > radius for a, b, _ in chosen):
            chosen.append((x, y, float(anomaly_map[ys[index], xs[index]])))
        if len(chosen) == limit:
            break
    return [
        ((x + 0.5) * size_wh[0] / width - 0.5, (y + 0.5) * size_wh[1] / height - 0.5, value)
        for x, y, value in chosen
    ]


class PromptError(ValueError):
    """What was found in an image prompts nothing; one line with the fix."""


class FoundBoxes(Protocol):
    """Boxes (n, 4) and their scores (n,)."""

    @property
    def xyxy(self) -> NDArray[np.float32]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...


class Finding(Protocol):
    """What another model found in an image: boxes, or an anomaly map."""

    @property
    def boxes(self) -> FoundBoxes | None: ...
    @property
    def anomaly_map(self) -> NDArray[np.float32] | None: ...


def prompts_of_finding(
    found: Finding, size_wh: tuple[int, int], *, limit: int, confidence: float
) -> tuple[list[Prompt], NDArray[np.float32]]:
    """Turn boxes, or the peaks of an anomaly map, into prompts.

    Args:
        found: in the same image.
        size_wh: its width and height.
        limit: most prompts.
        confidence: of boxes that prompt, at least.

    Returns:
        The prompts, best first, and their confidences.

    Raises:
        PromptError: there are neither boxes nor a map, or a box lies outside the image.
    """
    if found.boxes is not None:
        boxes, scores = found.boxes.xyxy, found.boxes.scores
        order = np.argsort(-scores, kind="stable")[:limit]
        kept = [int(i) for i in order if scores[i] >= confidence]
        return [_box_inside(boxes[i], size_wh) for i in kept], scores[kept]
    if found.anomaly_map is not None:
        peaks = find_peaks(found.anomaly_map, size_wh, limit=limit)
        values = np.array([value for _, _, value in peaks], np.float32)
        return [click_prompt(x, y) for x, y, _ in peaks], values
    raise PromptError(
        "the prompting run predicts neither boxes nor anomaly maps; use --prompt-run with a run of "
        "yolo, yolo-world or patchcore"
    )


def _box_inside(box_xyxy: NDArray[np.float32], size_wh: tuple[int, int]) -> Prompt:
    """Return the prompt of the part of a box that is in the image."""
    width, height = size_wh
    x0, y0 = (max(float(v), 0.0) for v in box_xyxy[:2])
    x1, y1 = min(float(box_xyxy[2]), float(width)), min(float(box_xyxy[3]), float(height))
    if not (np.isfinite(box_xyxy).all() and x0 < x1 and y0 < y1):
        numbers = ", ".join(f"{float(v):g}" for v in box_xyxy)
        raise PromptError(
            f"prompting box ({numbers}) has no pixel in the image of {width} x {height}; "
            "train the prompting run again"
        )
    return box_prompt((x0, y0, x1, y1))

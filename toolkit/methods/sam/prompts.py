"""Prompts: boxes and clicks as one array of labelled points, as SAM's own decoder takes them.

A prompt is `coords` (N, 2) and `labels` (N,): 1 a click on the object, 0 a click beside it, 2 and 3
the two corners of a box, -1 padding. A click needs one padding point and a box none, so first
prompts of both kinds have two points and a batch can mix them.

Coordinates are pixels (x, y) of the original image, before SAM's resizing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def with_click(prompt: Prompt, x: float, y: float, *, positive: bool) -> Prompt:
    """Return the prompt with one more click, before the padding if there is any."""
    at = len(prompt.labels) - int(prompt.labels[-1] == PADDING)
    coords = np.insert(prompt.coords, at, (x, y), axis=0).astype(np.float32)
    labels = np.insert(prompt.labels, at, POSITIVE if positive else NEGATIVE)
    return Prompt(coords, labels)


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


def random_pixel(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """Return x and y of a random true pixel.

    Raises:
        ValueError: the mask is empty.
    """
    indices = np.flatnonzero(mask)
    if indices.size == 0:
        raise ValueError("no pixel to choose from")
    y, x = divmod(int(rng.choice(indices)), mask.shape[1])
    return float(x), float(y)


def centre_pixel(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return x and y of the true pixel that lies deepest inside, where a person would click.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("no pixel to choose from")
    y, x = divmod(int(_depth(mask).argmax()), mask.shape[1])
    return float(x), float(y)


def likely_pixel(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """Return x and y of a random true pixel, the likelier the deeper it lies.

    A share of the greatest depth is drawn, then any pixel at least that deep: people click well
    inside a region, though rarely on its very centre.

    Raises:
        ValueError: the mask is empty.
    """
    depth = _depth(mask)
    return random_pixel(mask & (depth >= rng.random() * depth.max()), rng)


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance of each true pixel to the nearest false one; outside all is false."""
    import cv2

    padded = np.pad(mask.astype(np.uint8), 1)
    depth: NDArray[np.float32] = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return depth


def click_on_error(
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    rng: np.random.Generator | None = None,
) -> tuple[float, float, bool] | None:
    """Return a click on the error: x, y, and whether it belongs to the object.

    Args:
        predicted: bool array (H, W).
        truth: bool array (H, W).
        rng: draws a random pixel of the error (training); None takes the deepest pixel of the
            larger kind of error (evaluation, so that it can be repeated).

    Returns:
        None where there is no error.
    """
    missed, extra = truth & ~predicted, predicted & ~truth
    error = missed | extra
    if not error.any():
        return None
    if rng is not None:
        x, y = random_pixel(error, rng)
        return x, y, bool(missed[int(y), int(x)])
    larger_is_missed = bool(missed.sum() >= extra.sum())
    x, y = centre_pixel(missed if larger_is_missed else extra)
    return x, y, larger_is_missed


def clicked_parts(mask: NDArray[np.bool_], prompt: Prompt) -> NDArray[np.bool_]:
    """Keep the connected parts of a mask that hold a click on the object, or else the nearest one.

    Under a box all parts are kept.

    Args:
        mask: bool array (H, W).
        prompt: in the mask's pixels.
    """
    import cv2

    clicks = prompt.coords[prompt.labels == POSITIVE]
    if not len(clicks) or prompt.is_box or not mask.any():
        return mask
    _, parts = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    height, width = mask.shape
    xs = np.clip(clicks[:, 0].round().astype(int), 0, width - 1)
    ys = np.clip(clicks[:, 1].round().astype(int), 0, height - 1)
    hit = set(parts[ys, xs].tolist()) - {0}
    if not hit:
        row, column = np.nonzero(mask)
        nearest = ((row - ys[0]) ** 2 + (column - xs[0]) ** 2).argmin()
        hit = {int(parts[row[nearest], column[nearest]])}
    kept: NDArray[np.bool_] = np.isin(parts, sorted(hit))
    return kept

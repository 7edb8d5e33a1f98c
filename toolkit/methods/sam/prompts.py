"""Prompts: boxes and clicks as one array of labelled points, the way SAM itself sees them.

A prompt is `coords` (N, 2) and `labels` (N,): 1 a click on the object, 0 a click beside it, 2 and 3
the two corners of a box, -1 padding. A click needs one padding point and a box none, so first
prompts of both kinds have two points and a batch can mix them.

Coordinates are pixels (x, y) of the image as it was given, before SAM's resizing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PADDING, NEGATIVE, POSITIVE, BOX_FIRST, BOX_SECOND = -1, 0, 1, 2, 3
_JITTER_MAX_PIXELS = 20.0


@dataclass(frozen=True)
class Prompt:
    """One prompt for one object.

    Attributes:
        coords: float32 array (N, 2), x and y in pixels.
        labels: int64 array (N,), see the module.
    """

    coords: NDArray[np.float32]
    labels: NDArray[np.int64]


def box_prompt(box_xyxy: tuple[float, float, float, float]) -> Prompt:
    """Return the prompt of a half-open box; SAM takes the coordinates of the corner pixels.

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


def jittered_box(
    box_xyxy: tuple[float, float, float, float],
    size_wh: tuple[int, int],
    rng: np.random.Generator,
    *,
    share: float = 0.1,
) -> tuple[float, float, float, float]:
    """Move each side by noise, as SAM's authors do in training.

    The standard deviation is `share` of the box's side, the noise at most 20 pixels (Kirillov et
    al. 2023, appendix A); the result stays in the image and at least one pixel wide.
    """
    x0, y0, x1, y1 = box_xyxy
    sides = np.array([x1 - x0, y1 - y0] * 2, float)
    noise = np.clip(rng.normal(size=4) * sides * share, -_JITTER_MAX_PIXELS, _JITTER_MAX_PIXELS)
    width, height = size_wh
    left = float(np.clip(x0 + noise[0], 0, width - 1))
    top = float(np.clip(y0 + noise[1], 0, height - 1))
    right = float(np.clip(x1 + noise[2], left + 1, width))
    bottom = float(np.clip(y1 + noise[3], top + 1, height))
    return left, top, right, bottom


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


def correction(
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

"""Clicks on regions and on errors, as training and evaluation give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from toolkit.runtime.prompts import NEGATIVE, PADDING, POSITIVE, Prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray


def with_click(prompt: Prompt, x: float, y: float, *, positive: bool) -> Prompt:
    """Return the prompt with one more click, before the padding if there is any."""
    at = len(prompt.labels) - int(prompt.labels[-1] == PADDING)
    coords = np.insert(prompt.coords, at, (x, y), axis=0).astype(np.float32)
    labels = np.insert(prompt.labels, at, POSITIVE if positive else NEGATIVE)
    return Prompt(coords, labels)


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

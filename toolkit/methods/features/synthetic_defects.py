"""Synthetic defects: good images with a known wrong spot, to learn from where none is labelled.

Two kinds: a piece of the image pasted elsewhere (CutPaste, Li et al.,
CVPR 2021), and a foreign texture blended in where Perlin noise is high (DRAEM, Zavrtanik et al.,
ICCV 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from toolkit.data.images import read_rgb
from toolkit.data.types import Sample
from toolkit.progress import track

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

_SHARES = (0.002, 0.05)
"""Smallest and largest area of a synthetic defect, as a share of the image."""


def wants_synthetic_defects(
    how: Literal["auto", "always", "never"], labelled: Sequence[object]
) -> bool:
    """Return whether synthetic defects are made: `auto` makes them where no defect is labelled."""
    return how == "always" or (how == "auto" and not labelled)


def make_synthetic_defects(
    good: Sequence[Sample], count: int, *, seed: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield good images with a synthetic defect each, and its mask; shows progress.

    Args:
        good: images to change; each serves again when all have served.
        count: how many to make.
        seed: of the images' order and of the defects.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(good))
    for i in track(range(count), "synthetic defects", count):
        image = read_rgb(good[order[i % len(good)]].image)
        other = read_rgb(good[order[(i + 1) % len(good)]].image)
        yield synthetic_defect(image, other, rng)


def cut_paste(
    image: NDArray[np.uint8], rng: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Copy a rectangle of the image, change its colours a little, and paste it elsewhere.

    Args:
        image: uint8 array (H, W, 3).
        rng: source of randomness.

    Returns:
        The changed copy, and a bool array (H, W) that is true where it was pasted.
    """
    height, width = image.shape[:2]
    area = _random_share(rng) * height * width
    aspect = np.exp(rng.uniform(-1.0, 1.0))
    h = int(np.clip(np.sqrt(area * aspect), 2, height // 2))
    w = int(np.clip(np.sqrt(area / aspect), 2, width // 2))
    (y0, y1), (x0, x1) = rng.integers(0, height - h, 2), rng.integers(0, width - w, 2)
    piece: NDArray[np.floating[Any]] = image[y0 : y0 + h, x0 : x0 + w].astype(np.float32)
    piece = piece * rng.uniform(0.6, 1.4, size=3) + rng.uniform(-30, 30)
    if rng.random() < 0.5:
        piece = piece[::-1, ::-1]
    changed, mask = image.copy(), np.zeros((height, width), np.bool_)
    changed[y1 : y1 + h, x1 : x1 + w] = np.clip(piece, 0, 255)
    mask[y1 : y1 + h, x1 : x1 + w] = True
    return changed, mask


def perlin_defect(
    image: NDArray[np.uint8], texture: NDArray[np.uint8], rng: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Blend a texture into one blob of the image that is cut out of Perlin noise.

    Args:
        image: uint8 array (H, W, 3).
        texture: uint8 array (H, W, 3), for example another image, turned.
        rng: source of randomness.

    Returns:
        The changed copy, and a bool array (H, W) that is true where it was changed.
    """
    import cv2

    height, width = image.shape[:2]
    noise = perlin_noise((height, width), cells=int(rng.integers(3, 9)), rng=rng)
    # One blob: noise, bent down away from a centre, above the quantile that gives the wanted area.
    cy, cx = rng.uniform(0.1, 0.9) * height, rng.uniform(0.1, 0.9) * width
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - cy, x - cx) / max(height, width)
    field = noise - 4.0 * distance
    mask = field > np.quantile(field, 1.0 - _random_share(rng))
    opacity = rng.uniform(0.3, 1.0)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(height, width) / 400)[..., None]
    foreign = texture.astype(np.float32) * rng.uniform(0.4, 1.6, size=3)
    blended = image + (np.clip(foreign, 0, 255) - image) * soft * opacity
    return np.clip(blended, 0, 255).astype(np.uint8), mask


def synthetic_defect(
    image: NDArray[np.uint8], other: NDArray[np.uint8], rng: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Make one synthetic defect, of either kind with even chances.

    Args:
        image: uint8 array (H, W, 3), a good image.
        other: uint8 array (h, w, 3) whose turned content is the foreign texture.
        rng: source of randomness.

    Returns:
        The changed copy, and a bool array (H, W) that is true where it was changed.
    """
    import cv2

    if rng.random() < 0.5:
        return cut_paste(image, rng)
    turned = np.ascontiguousarray(np.rot90(other, int(rng.integers(1, 4))))
    texture = cv2.resize(turned, (image.shape[1], image.shape[0]))
    return perlin_defect(image, np.asarray(texture, np.uint8), rng)


def perlin_noise(size_hw: tuple[int, int], *, cells: int, rng: Generator) -> NDArray[np.float32]:
    """Return gradient noise (Perlin 1985), float32 (H, W), about -1 to 1.

    Args:
        size_hw: rows and columns.
        cells: cells of the gradient lattice along each side.
        rng: source of randomness.
    """
    angles = rng.uniform(0, 2 * np.pi, size=(cells + 1, cells + 1))
    gradients = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    y = np.linspace(0, cells, size_hw[0], endpoint=False)[:, None]
    x = np.linspace(0, cells, size_hw[1], endpoint=False)[None, :]
    row, column = y.astype(int), x.astype(int)
    fy, fx = y - row, x - column

    def corner(dy: int, dx: int) -> NDArray[np.float64]:
        gradient = gradients[row + dy, column + dx]
        result: NDArray[np.float64] = gradient[..., 0] * (fy - dy) + gradient[..., 1] * (fx - dx)
        return result

    wy, wx = (t * t * t * (t * (t * 6 - 15) + 10) for t in (fy, fx))
    top = corner(0, 0) * (1 - wx) + corner(0, 1) * wx
    bottom = corner(1, 0) * (1 - wx) + corner(1, 1) * wx
    noise: NDArray[np.float32] = (np.sqrt(2) * (top * (1 - wy) + bottom * wy)).astype(np.float32)
    return noise


def _random_share(rng: Generator) -> float:
    # Uniform in the logarithm: as many small ones as large ones.
    return float(np.exp(rng.uniform(*np.log(_SHARES))))

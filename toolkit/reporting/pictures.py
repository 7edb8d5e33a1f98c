"""Thumbnails and heat maps as WebP."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

P = TypeVar("P", bound=np.generic)

LARGEST_EDGE = 640
_SMALLEST_EDGE = 160
_FULL_SIZE_IMAGES = 200
_HEAT_EDGE = 160
_HEAT_OPACITY = 0.85
_QUALITY = 78


def picture_edge(n_images: int) -> int:
    """Return the longer side of the pictures, in pixels: less where there are very many."""
    share = math.sqrt(min(1.0, _FULL_SIZE_IMAGES / max(n_images, 1)))
    return max(_SMALLEST_EDGE, round(LARGEST_EDGE * share))


def thumbnail(image: NDArray[np.uint8], edge: int) -> bytes:
    """Return an RGB image, uint8 (H, W, 3), as WebP whose longer side is at most `edge`."""
    return _webp(_shrunk(image, edge))


def heat_picture(anomaly_map: NDArray[np.float32], heat_range: tuple[float, float]) -> bytes:
    """Return a anomaly map as WebP to lay over the image: clear where low, glowing where high.

    Args:
        anomaly_map: float32 (h, w).
        heat_range: values of no and of full colour.
    """
    low, high = heat_range
    share = np.clip((anomaly_map - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    small = _shrunk(share, _HEAT_EDGE)
    colours = heat_colours()[np.round(small * 255).astype(np.uint8)]
    alpha = np.round(small * (_HEAT_OPACITY * 255)).astype(np.uint8)
    return _webp(np.dstack([colours, alpha]))


def heat_colours() -> NDArray[np.uint8]:
    """Return the colours of the heat map from low to high, uint8 (256, 3), RGB."""
    import cv2

    ramp = np.arange(256, dtype=np.uint8).reshape(-1, 1)
    return np.ascontiguousarray(cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)[:, 0, ::-1])


def heat_gradient() -> str:
    """Return the same colours, and how they cover, as stops of a CSS gradient."""
    colours = heat_colours()
    stops = [round(i * 255 / 8) for i in range(9)]
    return ", ".join(
        f"rgb({r} {g} {b} / {i / 255 * _HEAT_OPACITY:.2f})"
        for i in stops
        for r, g, b in [colours[i].tolist()]
    )


def _shrunk(pixels: NDArray[P], edge: int) -> NDArray[P]:
    import cv2

    height, width = pixels.shape[:2]
    share = edge / max(height, width)
    if share >= 1:
        return pixels
    size = max(1, round(width * share)), max(1, round(height * share))
    small: NDArray[P] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return small


def _webp(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        file, "WEBP", quality=_QUALITY, alpha_quality=_QUALITY, method=4
    )
    return file.getvalue()

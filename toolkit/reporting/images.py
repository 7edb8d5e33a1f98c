"""Images of the gallery: thumbnails and heat maps as WebP, masks and boxes as vectors."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from toolkit.data.images import image_size, read_rgb, read_truth
from toolkit.data.layouts import load_dataset
from toolkit.data.types import GOOD, Sample
from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.prediction import Boxes

P = TypeVar("P", bound=np.generic)

MAX_BOXES = 10
BOX_CONFIDENCE = 0.25
_OUTLINE_TOLERANCE = 0.0015
_MAX_EDGE, _MIN_EDGE = 640, 160
_FULL_SIZE_IMAGES = 200
_HEAT_EDGE = 160
_HEAT_OPACITY = 0.85
_QUALITY = 78


@dataclass(frozen=True)
class ImageSource:
    """Test images and true masks of one data set, as far as they can be found.

    Attributes:
        root: folder of the data set.
        samples: samples by id; empty where the data set cannot be read as a whole.
        changed: whether images, labels or masks differ from those of the runs.
    """

    root: Path
    samples: Mapping[str, Sample] = field(default_factory=dict)
    changed: bool = False

    @classmethod
    def open(cls, root: Path, *, layout: str, fingerprint: str) -> ImageSource:
        """Open a data set; a missing or incomplete one gives a source without true masks."""
        try:
            dataset = load_dataset(root, layout=layout)
            changed = dataset.fingerprint != fingerprint
        except ToolkitError:
            return cls(root)
        return cls(root, dataset.by_id, changed)

    def truth(self, sample_id: str) -> NDArray[np.bool_] | None:
        """Return the true mask, bool (H, W); None where it is not known."""
        try:
            return read_truth(self.samples[sample_id])
        except (KeyError, ToolkitError):
            return None

    def record(self, sample_id: str, label: str, edge: int) -> dict[str, Any] | None:
        """Return size, WebP and true outline as JSON values; None if the image cannot be read.

        Args:
            sample_id: id of the sample, which is its path below the root.
            label: true label.
            edge: longer side of the WebP, pixels.
        """
        sample = self.samples.get(sample_id)
        path = sample.image if sample else self.root / sample_id
        try:
            width, height, _ = image_size(path)
            webp = to_base64(thumbnail(read_rgb(path), edge))
        except ToolkitError:
            return None
        truth = None if label == GOOD else self.truth(sample_id)
        outline = "" if truth is None else mask_path(truth)
        return {"width": width, "height": height, "webp": webp, "truth": outline}


def thumbnail_edge(n_images: int) -> int:
    """Return the longer side of thumbnails in pixels, smaller where there are many images."""
    share = math.sqrt(min(1.0, _FULL_SIZE_IMAGES / max(n_images, 1)))
    return max(_MIN_EDGE, round(_MAX_EDGE * share))


def thumbnail(image: NDArray[np.uint8], edge: int) -> bytes:
    """Encode an RGB image, uint8 (H, W, 3), as WebP with a longer side of at most `edge`."""
    return _webp(_shrink(image, edge))


def heat_map(anomaly_map: NDArray[np.float32], heat_range: tuple[float, float]) -> bytes:
    """Encode an anomaly map as WebP to lay over the image: transparent where low.

    Args:
        anomaly_map: float32 (h, w).
        heat_range: values of no colour and of full colour.
    """
    low, high = heat_range
    share = np.clip((anomaly_map - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    small = _shrink(share, _HEAT_EDGE)
    colors = heat_colors()[np.round(small * 255).astype(np.uint8)]
    alpha = np.round(small * (_HEAT_OPACITY * 255)).astype(np.uint8)
    return _webp(np.dstack([colors, alpha]))


def heat_colors() -> NDArray[np.uint8]:
    """Return the colours of the heat map from low to high, uint8 (256, 3), RGB."""
    import cv2

    ramp = np.arange(256, dtype=np.uint8).reshape(-1, 1)
    return np.ascontiguousarray(cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)[:, 0, ::-1])


def heat_gradient() -> str:
    """Return the colours and opacities of the heat map as stops of a CSS gradient."""
    stops = [round(i * 255 / 8) for i in range(9)]
    return ", ".join(
        f"rgb({r} {g} {b} / {i / 255 * _HEAT_OPACITY:.2f})"
        for i in stops
        for r, g, b in [heat_colors()[i].tolist()]
    )


def mask_path(mask: NDArray[np.bool_]) -> str:
    """Return the outlines of a mask, bool (H, W), as an SVG path in pixels.

    Holes are outlines too: fill by the even-odd rule. Outlines run through the middle of the
    outermost pixels and are simplified by at most 0.15 % of the longer side.
    """
    import cv2

    tolerance = _OUTLINE_TOLERANCE * max(mask.shape)
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    paths = []
    for outline in found:
        points = cv2.approxPolyDP(outline, tolerance, True).reshape(-1, 2)
        if len(points) < 3:  # keep the extent of very small regions
            x, y, w, h = cv2.boundingRect(outline)
            paths.append(f"M{x} {y}h{w}v{h}h-{w}z")
            continue
        corners = " ".join(f"{x + 0.5:g} {y + 0.5:g}" for x, y in points.tolist())
        paths.append(f"M{corners}z")
    return "".join(paths)


def select_boxes(
    boxes: Boxes, threshold: float | None
) -> list[tuple[float, float, float, float, float, str]]:
    """Return the best boxes as (x0, y0, x1, y1, score, label), half-open pixels, best first.

    Boxes with a confidence of at least 0.25 are kept. If there are none, the best box is kept where
    it reaches the image-level threshold, so that a flagged image always displays a box.
    """
    order = np.argsort(-boxes.scores, kind="stable")[:MAX_BOXES]
    kept = [int(i) for i in order if boxes.scores[i] >= BOX_CONFIDENCE]
    if not kept and len(order) and threshold is not None:
        kept = [int(order[0])] if boxes.scores[order[0]] >= threshold > 0 else []
    selected = []
    for i in kept:
        x0, y0, x1, y1 = (round(float(v), 1) for v in boxes.xyxy[i])
        selected.append((x0, y0, x1, y1, round(float(boxes.scores[i]), 4), boxes.labels[i]))
    return selected


def to_base64(data: bytes) -> str:
    """Encode bytes for JSON."""
    return base64.b64encode(data).decode("ascii")


def _shrink(pixels: NDArray[P], edge: int) -> NDArray[P]:
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

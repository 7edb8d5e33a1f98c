"""Plots of predictions: heat map, mask outline and boxes over the image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.files import atomic_write
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.prediction import Prediction

PREDICTED = (255, 140, 0)
TRUTH = (0, 200, 90)
_HEAT_SHARE = 0.75
_SHOWN_BOXES = 10
_GOOD_ONLY_FACTOR = 3.0


def overlay(
    image: NDArray[np.uint8],
    prediction: Prediction,
    *,
    truth: NDArray[np.bool_] | None = None,
    heat_range: tuple[float, float] | None = None,
    box_confidence: float = 0.25,
) -> NDArray[np.uint8]:
    """Draw a prediction over its image.

    Args:
        image: uint8 array (H, W, 3), RGB.
        prediction: what to draw.
        truth: bool array (H, W), outlined in green where given.
        heat_range: anomaly map values of no and of full colour; the map's own range if None.
        box_confidence: boxes below it are not drawn.

    Returns:
        uint8 array (H, W, 3), RGB.
    """
    import cv2

    canvas = image.copy()
    height, width = image.shape[:2]
    if prediction.anomaly_map is not None:
        canvas = _heat(canvas, prediction.anomaly_map, heat_range)
    thickness = max(1, round(max(height, width) / 300))
    if prediction.mask is not None:
        _outline(canvas, prediction.mask, PREDICTED, thickness)
    if truth is not None:
        _outline(canvas, truth, TRUTH, thickness)
    if prediction.boxes is not None:
        boxes = prediction.boxes
        order = np.argsort(-boxes.scores, kind="stable")[:_SHOWN_BOXES]
        for i in (int(i) for i in order if boxes.scores[i] >= box_confidence):
            x0, y0, x1, y1 = (round(float(v)) for v in boxes.xyxy[i])
            cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), PREDICTED, thickness)
            text = f"{boxes.labels[i]} {boxes.scores[i]:.2f}"
            _label(canvas, text, (x0, y0), thickness)
    return canvas


def validation_heat_range(run: Run) -> tuple[float, float] | None:
    """Return the anomaly-map values of no and of full colour, the same for all plots of a run.

    No colour is the median of all validation maps. Full colour is the median of their maxima, so
    that a good image stays clear and a strong defect glows; if the validation part has good images
    only, it lies three times as far from the median, since defects exceed what good images reach.

    Returns:
        Both values; None if the run has no anomaly maps.
    """
    maps = [p.anomaly_map for p in read_predictions(run.predictions, "val")]
    found = [m for m in maps if m is not None]
    if not found:
        return None
    low = float(np.median([np.median(m) for m in found]))
    height = float(np.median([m.max() for m in found])) - low
    if run.metadata.get("labels", {}).get("val") == 0:
        height *= _GOOD_ONLY_FACTOR
    return low, low + max(height, 1e-9)


def save_picture(picture: NDArray[np.uint8], path: Path) -> None:
    """Write an RGB picture; the file's ending names the format."""
    import cv2

    with atomic_write(path) as temporary:
        encoded, data = cv2.imencode(path.suffix, np.ascontiguousarray(picture[..., ::-1]))
        if not encoded:
            raise OSError(f"{path.suffix} cannot be written")
        temporary.write_bytes(data.tobytes())


def _heat(
    canvas: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    heat_range: tuple[float, float] | None,
) -> NDArray[np.uint8]:
    import cv2

    low, high = heat_range or (float(anomaly_map.min()), float(anomaly_map.max()))
    share = np.clip((anomaly_map - low) / max(high - low, 1e-12), 0, 1)
    size = (canvas.shape[1], canvas.shape[0])
    share = cv2.resize(share.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    colour = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    weight = _HEAT_SHARE * share[..., None]
    mixed: NDArray[np.uint8] = (canvas * (1 - weight) + colour * weight).astype(np.uint8)
    return mixed


def _outline(
    canvas: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    import cv2

    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, contours, -1, colour, thickness)


def _label(canvas: NDArray[np.uint8], text: str, corner: tuple[int, int], thickness: int) -> None:
    import cv2

    scale = max(0.35, canvas.shape[1] / 1200)
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    x = max(0, min(corner[0], canvas.shape[1] - width))
    y = max(height + base, corner[1])
    cv2.rectangle(canvas, (x, y - height - base), (x + width, y), PREDICTED, -1)
    cv2.putText(
        canvas, text, (x, y - base // 2 - 1), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), thickness
    )

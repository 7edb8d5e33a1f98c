"""Results: a prediction together with its image, the run's threshold, and drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.decisions.card import CalibrationCard
from toolkit.decisions.outcomes import Outcome, outcome
from toolkit.errors import printable
from toolkit.inference.plot import overlay, save_picture
from toolkit.prediction import Boxes, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOX_CONFIDENCE = 0.25
"""Boxes below it are not drawn where the image's threshold says nothing about boxes."""


@dataclass(frozen=True, eq=False)
class Result:
    """What `model.predict` returns for one image.

    Example:
        >>> result = toolkit.load_model("runs/patchcore/001")("part.png")[0]  # doctest: +SKIP
        >>> result.is_defect, result.score > result.threshold  # doctest: +SKIP
        (True, True)

    Attributes:
        prediction: the raw output of the method.
        image: RGB, uint8 array (H, W, 3).
        threshold: image-level threshold, of the calibration card or else of the run; None if there
            is none.
        name: name of the image in its source.
        path: file of the image; None for an array.
        heat_range: anomaly-map values that are drawn without colour and in full colour.
        calibration: the calibration card that the model was loaded with; None without one.
    """

    prediction: Prediction
    image: NDArray[np.uint8] = field(repr=False)
    threshold: float | None
    name: str = "image"
    path: Path | None = None
    heat_range: tuple[float, float] | None = field(default=None, repr=False)
    calibration: CalibrationCard | None = field(default=None, repr=False)

    @property
    def score(self) -> float:
        """Anomaly score of the image; raw, higher means more likely defective."""
        return float(self.prediction.score)

    @property
    def is_defect(self) -> bool | None:
        """Whether the score reaches the threshold, or is NaN; None if the run has no threshold."""
        return None if self.threshold is None else not self.score < self.threshold

    @property
    def outcome(self) -> Outcome | None:
        """OK, NOK, or REVIEW between two calibrated thresholds; None without a threshold."""
        if self.calibration is not None:
            return self.calibration.outcome(self.score)
        if self.threshold is None:
            return None
        return outcome(self.score, nok_threshold=self.threshold)

    @property
    def p_value(self) -> float | None:
        """Conformal p-value among the good images of the calibration; None without one.

        Of good products at most the share a has a p-value of a or less.
        """
        return None if self.calibration is None else self.calibration.p_value(self.score)

    @property
    def boxes(self) -> Boxes | None:
        """Detected boxes in pixels of the image; None if the method does not detect."""
        return self.prediction.boxes

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Defect mask, bool array (H, W); None if the method does not segment."""
        return self.prediction.mask

    @property
    def class_probabilities(self) -> Mapping[str, float] | None:
        """Probability of each class by name; None if the method does not classify."""
        return self.prediction.class_probabilities

    @cached_property
    def anomaly_map(self) -> NDArray[np.float32] | None:
        """Anomaly score of each pixel, float32 array (H, W); None if the method has no map.

        Resized bilinearly from the method's own resolution, as the pixel metrics do.
        """
        raw = self.prediction.anomaly_map
        if raw is None:
            return None
        import cv2

        size_wh = (self.image.shape[1], self.image.shape[0])
        resized: NDArray[np.float32] = cv2.resize(raw, size_wh, interpolation=cv2.INTER_LINEAR)
        return resized

    @property
    def box_threshold(self) -> float:
        """Confidence from which on boxes are drawn.

        Where the image's score is that of its best box, this is the image's threshold: an image
        that is called defective shows why.
        """
        boxes = self.boxes
        if self.threshold is None or boxes is None or not len(boxes):
            return BOX_CONFIDENCE
        if not np.isclose(float(boxes.scores.max()), self.score, rtol=1e-5, atol=0):
            return BOX_CONFIDENCE
        return self.threshold

    def plot(self) -> NDArray[np.uint8]:
        """Return the image with heat map, mask outline and boxes, RGB uint8 (H, W, 3)."""
        return overlay(
            self.image,
            self.prediction,
            heat_range=self.heat_range,
            box_confidence=self.box_threshold,
        )

    def save(self, path: str | Path) -> Path:
        """Write the plot to a file; its ending names the format.

        Raises:
            OutputError: the file cannot be written.
        """
        path = Path(path)
        save_picture(self.plot(), path)
        return path

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values, without image, mask and anomaly map."""
        record: dict[str, Any] = {
            "image": str(self.path if self.path is not None else self.name),
            "score": self.score,
            "threshold": self.threshold,
            "is_defect": self.is_defect,
        }
        if self.calibration is not None:
            record["outcome"] = self.calibration.outcome(self.score).value
            record["p_value"] = self.p_value
        if self.class_probabilities is not None:
            record["class_probabilities"] = {
                k: float(v) for k, v in self.class_probabilities.items()
            }
        if self.boxes is not None:
            boxes = self.boxes
            record["boxes"] = [
                {"box_xyxy": [float(v) for v in box], "score": float(score), "label": label}
                for box, score, label in zip(boxes.xyxy, boxes.scores, boxes.labels, strict=True)
            ]
        return record

    def summary(self) -> str:
        """Return one line: the decision, the score, what was found, and the image."""
        if self.calibration is not None:
            decision = self.calibration.outcome(self.score).value
        else:
            decision = {None: "?", True: "defect", False: "good"}[self.is_defect]
        boxes = self.boxes
        found = ""
        if boxes is not None:
            drawn = int((boxes.scores >= self.box_threshold).sum())
            found = f"  {drawn} {'box' if drawn == 1 else 'boxes'}"
        return f"{decision:6}  {self.score:10.4g}{found}  {printable(self.path or self.name)}"

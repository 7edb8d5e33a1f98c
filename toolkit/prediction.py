"""Predictions: what a method returns for one image. Scores are raw, never clamped or normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Boxes:
    """Detected boxes of one image.

    Example:
        >>> boxes = Boxes(np.array([[10, 20, 30, 50]], np.float32), np.array([0.9], np.float32),
        ...               ("scratch",))
        >>> len(boxes)
        1

    Attributes:
        xyxy: float32 array (n, 4), half-open pixel coordinates of the original image.
        scores: float32 array (n,).
        labels: n class names.
    """

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def none(cls) -> Boxes:
        """Return an empty set of boxes."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), ())


@dataclass(frozen=True)
class Prediction:
    """The raw output of a method for one image.

    Example:
        >>> Prediction(3.7).score
        3.7

    Attributes:
        score: anomaly score of the image; raw, higher means more likely defective.
        class_probabilities: by class name (`good` included), if the method classifies.
        boxes: if the method detects; all boxes with a confidence of at least 0.001.
        mask: bool array (H, W) of the image's size, if the method segments.
        anomaly_map: float32 array (h, w) that covers the whole image at any resolution, if the
            method scores pixels.
        sample_id: id of the sample; empty for an image that is not part of a data set.
        seconds: time from file to prediction, where it was measured; from a predictor, what a
            cache has saved.
    """

    score: float
    class_probabilities: Mapping[str, float] | None = None
    boxes: Boxes | None = None
    mask: NDArray[np.bool_] | None = None
    anomaly_map: NDArray[np.float32] | None = None
    sample_id: str = ""
    seconds: float | None = None

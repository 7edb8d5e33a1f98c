"""What a method says of one image. Scores are raw: never clamped, squashed or normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image.

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
    """What a method says of one image.

    Attributes:
        sample_id: id of the sample.
        score: anomaly score of the image; raw, higher is worse.
        class_probabilities: by class name (`good` included), where the method classifies.
        boxes: where the method detects; kept down to a confidence of 0.001.
        mask: bool array (H, W) of the image's size, where the method segments.
        score_map: float32 array (h, w) that covers the whole image at any resolution, where the
            method localises by score.
        seconds: time from file to prediction; set by the engine.
    """

    sample_id: str
    score: float
    class_probabilities: Mapping[str, float] | None = None
    boxes: Boxes | None = None
    mask: NDArray[np.bool_] | None = None
    score_map: NDArray[np.float32] | None = None
    seconds: float | None = None

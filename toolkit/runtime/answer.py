"""What was found in one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolkit.runtime.boxes import Found


class Answer(NamedTuple):
    """What was found in one image.

    The score is raw: higher is worse. The anomaly map is float32 (side, side) over the whole image,
    the mask bool (H, W).
    """

    score: float
    class_probabilities: dict[str, float] | None = None
    boxes: Found | None = None
    anomaly_map: NDArray[np.float32] | None = None
    mask: NDArray[np.bool_] | None = None

"""Settings that all scorers on frozen features share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from toolkit.config import setting
from toolkit.weights.lite0 import LITE0_NAME


@dataclass(frozen=True)
class FeatureSettings:
    """Which features are compared, and how their scores become a map and one image score."""

    backbone: str = setting(LITE0_NAME, "network of timm or torchvision whose features are used")
    weights: str = setting("pretrained", "pretrained, auto, none (random), or a state dict file")
    layers: tuple[str, ...] = setting(
        (), "layers whose features are used; empty: the default ones", advanced=True
    )
    image_size: int = setting(448, "side in pixels of the square that images are resized to")
    keep_aspect: bool = setting(
        True,
        "a rectangle of as many pixels for images that are none, and small ones are not blown up",
        advanced=True,
    )
    patch_size: int = setting(
        3, "side, in cells, of the neighbourhood that is averaged; odd", advanced=True
    )
    feature_stride: int = setting(
        16, "pixels per cell of the feature grid; 0: the finest layer's", advanced=True
    )
    image_score: Literal["max", "top_1_percent"] = setting(
        "max", "image score: maximum of the map, or mean of its highest 1 %"
    )
    sigma: float = setting(
        4.0, "smoothing of the anomaly map, in pixels of the resized image", advanced=True
    )
    target_fpr: float = setting(
        0.0, "threshold that flags this share of good validation images; 0: that of the best F1"
    )

    def __post_init__(self) -> None:
        """Reject values that no image could be scored with.

        Raises:
            ValueError: the message names the key.
        """
        if not 0 <= self.target_fpr < 1:
            raise ValueError(f"target_fpr={self.target_fpr}: must be from 0 to below 1")
        check_minimum(self, image_size=1, patch_size=1, feature_stride=0, sigma=0)


def check_minimum(settings: object, **minima: float) -> None:
    """Check that settings are finite numbers of at least a minimum.

    Raises:
        ValueError: the message names the first that is not.
    """
    for key, minimum in minima.items():
        value = getattr(settings, key)
        if not minimum <= value < math.inf:  # false for NaN, too
            raise ValueError(f"{key}={value}: must be at least {minimum}")


def check_fraction(settings: object, *keys: str) -> None:
    """Check that settings are fractions above 0 and up to 1.

    Raises:
        ValueError: the message names the first that is not.
    """
    for key in keys:
        value = getattr(settings, key)
        if not 0 < value <= 1:
            raise ValueError(f"{key}={value}: must be above 0 and at most 1")

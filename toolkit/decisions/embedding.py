"""Embeddings of whole images, to see a shift that the scores of a method do not show."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.types import file_sha256
from toolkit.decisions.card import CalibrationCard
from toolkit.methods.features.backbone import build_backbone
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.weights.lite0 import LITE0_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 224


def embed_images(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Return the mean over the image of the last features of the installed ImageNet network.

    The same network for every method, so that the shift does not depend on which one is used.

    Args:
        images: RGB, uint8 arrays (H, W, 3), of any sizes; at least one.

    Returns:
        float64 (n, channels).

    Raises:
        WeightsError: the network's weights are not installed.
    """
    extractor = FeatureExtractor(
        build_backbone(LITE0_NAME, layers=("blocks.6",)), image_size=_SIDE, patch_size=1
    )
    rows = [extractor(image).mean(dim=0).cpu().numpy() for image in images]
    return np.stack(rows).astype(np.float64)


def calibration_images(card: CalibrationCard) -> list[Path]:
    """Return the files of a card's good images, as far as they are still there, unchanged."""
    folder = Path(card.good["folder"])
    found = []
    for image in card.good["images"]:
        path = folder / image["name"]
        if path.is_file() and file_sha256(path) == image["sha256"]:
            found.append(path)
    return found

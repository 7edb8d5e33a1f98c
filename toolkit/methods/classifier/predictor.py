"""A trained classifier in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.methods.base import Graph, Predictor, to_prediction
from toolkit.methods.classifier.network import tta_transforms
from toolkit.prediction import Prediction
from toolkit.runtime.steps import ClassSteps, resize_square

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.methods.classifier.checkpoint import ModelInfo
    from toolkit.methods.classifier.network import ClassificationNetwork


class ClassifierPredictor(Predictor):
    """Classify images, one at a time: on a CPU a batch is no faster, and rounds differently.

    Args:
        model: in evaluation mode, on its device.
        info: what belongs to it.
    """

    def __init__(self, model: ClassificationNetwork, info: ModelInfo) -> None:
        self._model, self._info = model.to(memory_format=torch.channels_last), info
        self._transforms = tta_transforms(info.tta)
        self._steps = ClassSteps(self.steps())

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return the log-odds of a defect and the probabilities of the classes of each image.

        Args:
            images: RGB, uint8 arrays (H, W, 3), of any sizes.
        """
        return [self._predict(image) for image in images]

    def logits(self, image: NDArray[np.uint8]) -> Tensor:
        """Return the logits (1, K), float32, of an RGB uint8 image (H, W, 3)."""
        with torch.inference_mode():
            pixels = to_pixels(image, self._info.image_size)
            return self._model.tta_logits(pixels, self._transforms).cpu()

    def _predict(self, image: NDArray[np.uint8]) -> Prediction:
        return to_prediction(self._steps.answer(self.logits(image).numpy()))

    def steps(self) -> dict[str, Any]:
        """Return what lies around the network; see `Predictor.steps`."""
        info = self._info
        classes = list(info.classes)
        return {"kind": "classification", "image_size": info.image_size, "classes": classes}

    def graph(self) -> Graph:
        """Return the network with normalization and TTA, from the resized image to logits."""
        side = self._info.image_size
        module = _LogitsOfImage(self._model, tta=self._info.tta).eval()
        example = np.zeros((1, side, side, 3), np.uint8)
        return Graph(module, {"image": example}, ("logits",))


def to_pixels(image: NDArray[np.uint8], size: int) -> Tensor:
    """Resize an RGB image (H, W, 3) to float32 (1, 3, size, size) in [0, 1]."""
    return torch.from_numpy(resize_square(image, size)).permute(2, 0, 1)[None].float() / 255


class _LogitsOfImage(nn.Module):
    """From the resized image, uint8 (1, side, side, 3), to logits; normalization and TTA inside."""

    def __init__(self, model: ClassificationNetwork, *, tta: bool) -> None:
        super().__init__()
        self.model, self.transforms = model, tta_transforms(tta)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        pixels = image.permute(0, 3, 1, 2).float() / 255
        return (self.model.tta_logits(pixels, self.transforms),)

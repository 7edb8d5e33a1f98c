"""A trained classifier in memory, and its ONNX export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.data.images import read_rgb
from toolkit.files import write_text
from toolkit.imbalance.image_folder import resize_square
from toolkit.methods.base import Exported, Graph, Predictor
from toolkit.methods.classifier.network import anomaly_scores, tta_transforms
from toolkit.methods.onnx_graph import write_graph
from toolkit.prediction import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.types import Sample
    from toolkit.methods.classifier.checkpoint import ModelInfo
    from toolkit.methods.classifier.network import ClassificationNetwork

_INPUT, _OUTPUT = "images", "logits"
_TOLERANCE = 1e-3
"""Of logits, which are of the order of 1 to 10."""


class ClassifierPredictor(Predictor):
    """Classify images, one at a time: on a CPU a batch is no faster, and rounds differently.

    Args:
        model: in evaluation mode, on its device.
        info: what belongs to it.
    """

    def __init__(self, model: ClassificationNetwork, info: ModelInfo) -> None:
        self._model, self._info = model.to(memory_format=torch.channels_last), info
        self._transforms = tta_transforms(info.tta)

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return the log-odds of a defect and the probabilities of the classes of each image.

        Args:
            images: RGB, uint8 arrays (H, W, 3), of any sizes.
        """
        return [self._predict(image) for image in images]

    def logits(self, image: NDArray[np.uint8]) -> Tensor:
        """Return the logits (1, K), float32, of an RGB uint8 image (H, W, 3)."""
        if self.engine is not None:
            small = resize_square(image, self._info.image_size)
            return torch.from_numpy(self.engine(small[None])[0])
        with torch.inference_mode():
            pixels = to_pixels(image, self._info.image_size)
            return self._model.tta_logits(pixels, self._transforms).cpu()

    def _predict(self, image: NDArray[np.uint8]) -> Prediction:
        logits = self.logits(image).double()
        probabilities = logits.softmax(1)[0].tolist()
        return Prediction(
            score=float(anomaly_scores(logits)[0]),
            class_probabilities=dict(zip(self._info.classes, probabilities, strict=True)),
        )

    def graph(self) -> Graph:
        """Return the network with normalization and TTA, from the resized image to logits."""
        side = self._info.image_size
        module = _LogitsOfImage(self._model, tta=self._info.tta).eval()
        return Graph(module, np.zeros((1, side, side, 3), np.uint8), (_OUTPUT,))


def to_pixels(image: NDArray[np.uint8], size: int) -> Tensor:
    """Resize an RGB image (H, W, 3) to float32 (1, 3, size, size) in [0, 1]."""
    return torch.from_numpy(resize_square(image, size)).permute(2, 0, 1)[None].float() / 255


class _LogitsInUse(nn.Module):
    """The classifier with normalization and TTA inside, for ONNX."""

    def __init__(self, model: ClassificationNetwork, *, tta: bool) -> None:
        super().__init__()
        self.model, self.transforms = model, tta_transforms(tta)

    def forward(self, images: Tensor) -> Tensor:
        return self.model.tta_logits(images, self.transforms)


class _LogitsOfImage(_LogitsInUse):
    """The same from the resized image, uint8 (1, side, side, 3)."""

    def forward(self, image: Tensor) -> tuple[Tensor]:  # type: ignore[override]
        return (super().forward(image.permute(0, 3, 1, 2).float() / 255),)


def export_onnx(
    model: ClassificationNetwork, info: ModelInfo, out: Path, samples: Sequence[Sample]
) -> Exported:
    """Write `model.onnx`, and `model.json`, which describes its input and output.

    Input `images`: float32 (1, 3, side, side), RGB from 0 to 1, resized by area to the square, not
    normalized. Output `logits`: float32 (1, classes), `good` first; the anomaly score is the
    logsumexp of the others minus that of good.

    Args:
        model: in evaluation mode, on the CPU.
        info: what belongs to it.
        out: the folder.
        samples: images on which both are compared.

    Raises:
        MissingExtraError: ONNX is not installed.
        DataError: an image cannot be read.
    """
    side = info.image_size
    session = write_graph(
        _LogitsInUse(model, tta=info.tta).eval(),
        {_INPUT: torch.zeros(1, 3, side, side)},
        [_OUTPUT],
        out / "model.onnx",
    )
    description = {
        "classes": list(info.classes),
        "input": {"name": _INPUT, "shape": [1, 3, side, side], "range": [0, 1], "order": "RGB"},
        "output": {"name": _OUTPUT, "score": "logsumexp(logits[1:]) - logits[0]"},
    }
    write_text(out / "model.json", json.dumps(description, indent=2, ensure_ascii=False) + "\n")
    predictor, difference = ClassifierPredictor(model, info), 0.0
    for sample in samples:
        image = read_rgb(sample.image)
        (found,) = session.run([_OUTPUT], {_INPUT: to_pixels(image, side).numpy()})
        expected = predictor.logits(image).numpy()
        difference = max(difference, float(np.abs(found - expected).max()))
    return Exported(
        files=("model.onnx", "model.json"),
        max_difference=difference,
        tolerance=_TOLERANCE,
        checked=f"logits of {len(samples)} images",
    )

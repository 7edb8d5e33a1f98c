"""Predict boxes with a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.d4 import D4, IDENTITY
from toolkit.methods.base import Graph, Predictor, to_prediction
from toolkit.prediction import Boxes, Prediction
from toolkit.runtime.steps import BoxSteps

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class YoloPredictor(Predictor):
    """A trained network, ready to predict.

    The image score is the highest box score, 0.0 for an image without boxes. Images are resized by
    averaging over areas, as for training, and padded to a multiple of the stride.
    """

    def __init__(
        self,
        network: Any,
        *,
        image_size: int,
        nms_iou: float,
        full_size: int = 0,
        device: str = "cpu",
        transforms: Sequence[D4] = (IDENTITY,),
        background: str = "",
    ) -> None:
        """Wrap a network.

        Args:
            network: in evaluation mode, with its class names.
            image_size: the longer side is resized to it.
            nms_iou: of two boxes of one class with a higher IoU the better is kept.
            full_size: longest side of images that are cut into tiles of `image_size`; 0: uncut.
            device: of the network.
            transforms: flips and turns to predict in; their boxes are fused.
            background: name of a class that stands for no defect; empty if there is none.
        """
        self.network = network
        self.image_size = image_size
        self.full_size = full_size
        self.nms_iou = nms_iou
        self.device = device
        self.transforms = tuple(transforms)
        self.background = background
        self.stride = max(int(network.stride.max()), 32)
        self.side = -(-image_size // self.stride) * self.stride
        self._steps = BoxSteps(self.steps())

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return the boxes of each image and its highest score."""
        return [to_prediction(self._steps.predict(image, self._in_torch)) for image in images]

    def detect(self, image: NDArray[np.uint8]) -> Boxes:
        """Return the boxes of an RGB image, uint8 array (H, W, 3), in its pixels, best first."""
        (prediction,) = self.predict([image])
        assert prediction.boxes is not None
        return prediction.boxes

    def _in_torch(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        import torch

        pixels = np.ascontiguousarray(image[0].transpose(2, 0, 1))[None]
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(self.device).float() / 255
            return [_candidates(self.network(batch)).float().cpu().numpy()]

    def steps(self) -> dict[str, Any]:
        """Return what lies around the network; see `Predictor.steps`."""
        return {
            "kind": "detection",
            "image_size": self.image_size,
            "full_size": self.full_size,
            "stride": self.stride,
            "nms_iou": self.nms_iou,
            "classes": list(self.network.names.values()),
            "background": self.background or None,
            "views": [{"turns": one.turns, "mirrored": one.mirrored} for one in self.transforms],
        }

    def graph(self) -> Graph:
        """Return the network, from the padded image to candidates, boxes and scores apart."""
        module = candidates_of_image(self.network)
        example = np.zeros((1, self.side, self.side, 3), np.uint8)
        names = ("candidates",) if module.end_to_end else ("boxes", "scores")
        return Graph(module, {"image": example}, names, {"image": {1: "height", 2: "width"}})


def _candidates(output: Any) -> Tensor:
    """Return the candidates of a detector's output, which may be a tuple."""
    candidates: Tensor = output[0] if isinstance(output, tuple) else output
    return candidates


def candidates_of_image(network: Any) -> Any:
    """Return a copy of a detector as a module for `Graph`, for images of any size.

    It has an attribute `end_to_end`: whether the detector's output needs no suppression.
    """
    from copy import deepcopy

    from torch import nn

    class CandidatesOfImage(nn.Module):
        """From an image, uint8 (1, H, W, 3), to boxes and scores of its candidates."""

        def __init__(self) -> None:
            super().__init__()
            self.network = deepcopy(network)
            head = self.network.model[-1]
            head.export, head.format, head.dynamic = True, "onnx", True
            self.end_to_end = bool(getattr(head, "end2end", False))

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            found = _candidates(self.network(image.permute(0, 3, 1, 2).float() / 255))
            return (found,) if self.end_to_end else (found[:, :4], found[:, 4:])

    return CandidatesOfImage().eval()

"""Find boxes in one image with a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.methods.yolo.checkpoint import load_network
from toolkit.methods.yolo.training_data import shrunk
from toolkit.methods.yolo.views import PLAIN, View, fuse
from toolkit.prediction import Boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

CONFIDENCE_FLOOR = 0.001
"""Boxes below it in a view are dropped: enough for any mAP, and what COCO evaluations keep."""

_MOST_BOXES = 300


def load_detector(path: Path, device: str) -> Any:
    """Read a trained network, ready to predict: batch norms folded into the convolutions.

    Raises:
        WeightsError: the checkpoint is missing or damaged.
    """
    return load_network(path).fuse(verbose=False).to(device).eval()


def detect(
    network: Any,
    image: NDArray[np.uint8],
    *,
    image_size: int,
    nms_iou: float,
    device: str,
    views: Sequence[View] = (PLAIN,),
    background: str = "",
) -> Boxes:
    """Return the boxes of one image, best first.

    The image is resized by averaging over areas, as the training images are.

    Args:
        network: from `load_detector`.
        image: RGB, uint8 array (H, W, 3).
        image_size: the longer side is resized to it; the shorter is padded to a multiple of 32.
        nms_iou: of two boxes of one class that overlap by more, the better stays.
        device: of the network.
        views: in which the image is shown to the network; their boxes are fused.
        background: name of a class that stands for no defect; what is most likely that is dropped.
    """
    height, width = image.shape[:2]
    small = shrunk(image, longest=image_size)
    answers = []
    for view in views:
        found = _detect_once(
            network,
            view.of(small),
            image_size=image_size,
            nms_iou=nms_iou,
            device=device,
            background=background,
        )
        xyxy = view.back(found.xyxy, (small.shape[1], small.shape[0]))
        scale = np.array([width / small.shape[1], height / small.shape[0]] * 2, np.float32)
        answers.append(Boxes(xyxy * scale, found.scores, found.labels))
    return fuse(answers)


def _detect_once(
    network: Any,
    image: NDArray[np.uint8],
    *,
    image_size: int,
    nms_iou: float,
    device: str,
    background: str,
) -> Boxes:
    import torch
    from ultralytics.data.augment import LetterBox
    from ultralytics.utils import nms, ops

    stride = stride_of(network)
    side = -(-image_size // stride) * stride
    padded = LetterBox((side, side), auto=True, stride=stride)(image=image)
    pixels = np.ascontiguousarray(padded.transpose(2, 0, 1))[None]
    with torch.inference_mode():
        batch = torch.from_numpy(pixels).to(device).float() / 255
        raw = network(batch)
        if background:
            index = list(network.names.values()).index(background)
            raw = without_background(raw[0] if isinstance(raw, tuple) else raw, index=index)
        (found,) = nms.non_max_suppression(
            raw,
            CONFIDENCE_FLOOR,
            nms_iou,
            multi_label=True,
            max_det=_MOST_BOXES,
            nc=len(network.names),
        )
        xyxy = ops.scale_boxes(batch.shape[2:], found[:, :4], image.shape[:2])
    names = network.names
    return Boxes(
        xyxy=xyxy.cpu().numpy().astype(np.float32),
        scores=found[:, 4].cpu().numpy().astype(np.float32),
        labels=tuple(names[int(index)] for index in found[:, 5].tolist()),
    )


def stride_of(network: Any) -> int:
    """Return the number of pixels of which each side of the input is a multiple."""
    return max(int(network.stride.max()), 32)


def without_background(raw: Tensor, *, index: int) -> Tensor:
    """Silence the candidates that the background class describes best, and that class itself.

    Args:
        raw: tensor (B, 4 + classes, candidates), as a detector gives it.
        index: of the background among the classes.
    """
    scores = raw[:, 4:]
    kept = (scores.argmax(dim=1, keepdim=True) != index) * scores
    kept[:, index] = 0
    raw = raw.clone()
    raw[:, 4:] = kept
    return raw

"""Predict boxes with a trained network, and export the network as ONNX."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.boxes import box_iou
from toolkit.d4 import D4, IDENTITY
from toolkit.data.images import read_rgb
from toolkit.data.types import Sample
from toolkit.files import write_text
from toolkit.methods.base import Exported, Graph, Predictor
from toolkit.prediction import Boxes, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

CONFIDENCE_FLOOR = 0.001
"""Boxes below it are dropped: low enough for any mAP, and what COCO evaluations keep."""

FUSION_IOU = 0.55
"""Boxes of two views with a higher IoU are one, as in the paper of `weighted_boxes_fusion`."""

_MAX_BOXES = 300
_INPUT, _OUTPUT = "images", "candidates"
_TOLERANCE = 1e-3
"""Of scores, and of box edges as shares of the input's side (a third of a pixel of 320)."""


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
        device: str = "cpu",
        transforms: Sequence[D4] = (IDENTITY,),
        background: str = "",
    ) -> None:
        """Wrap a network.

        Args:
            network: in evaluation mode, with its class names.
            image_size: the longer side is resized to it.
            nms_iou: of two boxes of one class with a higher IoU the better is kept.
            device: of the network.
            transforms: flips and turns to predict in; their boxes are fused.
            background: name of a class that stands for no defect; empty if there is none.
        """
        from ultralytics.data.augment import LetterBox

        self.network = network
        self.image_size = image_size
        self.nms_iou = nms_iou
        self.device = device
        self.transforms = tuple(transforms)
        self.background = background
        self.stride = max(int(network.stride.max()), 32)
        self.side = -(-image_size // self.stride) * self.stride
        self._letterbox = LetterBox((self.side, self.side), auto=True, stride=self.stride)
        self._letterbox_square = LetterBox((self.side, self.side), auto=False)

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return the boxes of each image and its highest score."""
        found = [self.detect(image) for image in images]
        return [
            Prediction(score=float(boxes.scores.max()) if len(boxes) else 0.0, boxes=boxes)
            for boxes in found
        ]

    def detect(self, image: NDArray[np.uint8]) -> Boxes:
        """Return the boxes of an RGB image, uint8 array (H, W, 3), in its pixels, best first."""
        height, width = image.shape[:2]
        small = resize_longest(image, self.image_size)
        size_wh = (small.shape[1], small.shape[0])
        scale = np.array([width / size_wh[0], height / size_wh[1]] * 2, np.float32)
        views = []
        for transform in self.transforms:
            found = self._detect_once(transform.apply(small))
            xyxy = transform.undo_boxes(found.xyxy, size_wh) * scale
            views.append(Boxes(xyxy, found.scores, found.labels))
        return weighted_boxes_fusion(views)

    def _detect_once(self, image: NDArray[np.uint8]) -> Boxes:
        import torch
        from ultralytics.utils import nms, ops

        names = self.network.names
        padded = self._letterbox(image=image)
        with torch.inference_mode():
            if self.engine is not None:
                outputs = self.engine(np.ascontiguousarray(padded[None]))
                candidates = torch.cat([torch.from_numpy(one) for one in outputs], dim=1)
            else:
                pixels = np.ascontiguousarray(padded.transpose(2, 0, 1))[None]
                batch = torch.from_numpy(pixels).to(self.device).float() / 255
                candidates = _candidates(self.network(batch))
            if self.background:
                index = list(names.values()).index(self.background)
                candidates = drop_background(candidates, index=index)
            (found,) = nms.non_max_suppression(
                candidates,
                CONFIDENCE_FLOOR,
                self.nms_iou,
                multi_label=True,
                max_det=_MAX_BOXES,
                nc=len(names),
            )
            xyxy = ops.scale_boxes(padded.shape[:2], found[:, :4], image.shape[:2])
        return Boxes(
            xyxy=xyxy.cpu().numpy().astype(np.float32),
            scores=found[:, 4].cpu().numpy().astype(np.float32),
            labels=tuple(names[int(index)] for index in found[:, 5].tolist()),
        )

    def graph(self) -> Graph:
        """Return the network, from the padded image to candidates, boxes and scores apart."""
        module = candidates_of_image(self.network)
        example = np.zeros((1, self.side, self.side, 3), np.uint8)
        names = ("candidates",) if module.end_to_end else ("boxes", "scores")
        return Graph(module, example, names, any_size=True)

    def export(self, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write `model.onnx` and `model.json`, which describes input and output.

        Input `images`: float32 (1, 3, side, side), RGB from 0 to 1, resized by area to the longest
        side and padded with 114/255 around. Output `candidates`: float32 (1, 4 + classes, n), box
        centre and size in pixels of the input, then a score per class, before non-maximum
        suppression. Class embeddings are constants inside. The graph predicts without test-time
        augmentation; a run that uses it has other scores, so its threshold does not fit.

        Args:
            out: the folder.
            samples: images on which graph and network are compared.

        Raises:
            MissingExtraError: ONNX is not installed.
            DataError: an image cannot be read.
        """
        import torch

        from toolkit.methods.onnx_graph import write_graph

        network, side = self.network, self.side
        inputs = [self._square_input(read_rgb(sample.image)) for sample in samples]
        with torch.inference_mode():
            expected = [_candidates(network(torch.from_numpy(one))).numpy() for one in inputs]
        head = network.model[-1]
        head.export, head.format = True, "onnx"
        try:
            example = {_INPUT: torch.zeros(1, 3, side, side)}
            session = write_graph(network, example, [_OUTPUT], out / "model.onnx")
        finally:
            head.export = False
        about = json.dumps(self._describe_export(), indent=2, ensure_ascii=False)
        write_text(out / "model.json", about + "\n")

        scale = np.array([side] * 4 + [1] * len(network.names), np.float32)[None, :, None]
        difference = 0.0
        for one, true in zip(inputs, expected, strict=True):
            (exported,) = session.run([_OUTPUT], {_INPUT: one})
            difference = max(difference, float(np.abs((exported - true) / scale).max()))
        n_views = len(self.transforms)
        return Exported(
            files=("model.onnx", "model.json"),
            max_difference=difference,
            tolerance=_TOLERANCE,
            checked=f"all candidates of {len(samples)} images",
            no_threshold=""
            if n_views == 1
            else f"the run's threshold is for scores fused over {n_views} views, and the export "
            "predicts in one; choose a threshold on its scores, or train with --no-tta",
        )

    def _square_input(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        square = self._letterbox_square(image=resize_longest(image, self.image_size))
        pixels = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32)
        return pixels / np.float32(255)

    def _describe_export(self) -> dict[str, Any]:
        shape = [1, 3, self.side, self.side]
        about: dict[str, Any] = {
            "classes": list(self.network.names.values()),
            "input": {"name": _INPUT, "shape": shape, "longest_side": self.image_size},
            "output": {"name": _OUTPUT, "rows": ["cx", "cy", "w", "h", "one score per class"]},
            "tta": {
                "exported": False,
                "run": [{"turns": t.turns, "mirrored": t.mirrored} for t in self.transforms],
                "meaning": "quarter turns anticlockwise, then left and right exchanged; the run "
                "joins the boxes of several views by weighted boxes fusion",
            },
            "background": self.background or None,
        }
        if self.background:
            about["background_meaning"] = (
                "no defect: the run drops every candidate that scores highest in this class"
            )
        return about


def resize_longest(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Resize an image to a longest side by averaging over areas; a smaller one is unchanged."""
    import cv2

    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: NDArray[np.uint8] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small


def drop_background(candidates: Tensor, *, index: int) -> Tensor:
    """Set the scores of candidates that the background class describes best, and its own, to 0.

    Args:
        candidates: tensor (B, 4 + classes, n) of a detector.
        index: of the background among the classes.
    """
    scores = candidates[:, 4:]
    kept = (scores.argmax(dim=1, keepdim=True) != index) * scores
    kept[:, index] = 0
    candidates = candidates.clone()
    candidates[:, 4:] = kept
    return candidates


def weighted_boxes_fusion(views: Sequence[Boxes]) -> Boxes:
    """Join the boxes of several views of one image.

    Solovyev, Wang, Gabruseva, "Weighted boxes fusion", Image and Vision Computing 107, 2021.
    Boxes of one class that overlap become their mean, weighted by score; the score is the sum of
    theirs over the number of views, so that a box of one view alone counts little. A second box of
    one view in the same place is dropped, so that no score exceeds the highest of a single view. A
    fused score may fall below `CONFIDENCE_FLOOR`.

    Args:
        views: boxes of each view, in pixels of the same image.

    Returns:
        Boxes, best first.
    """
    if len(views) == 1:
        return views[0]
    boxes = np.concatenate([v.xyxy for v in views]).astype(np.float64)
    scores = np.concatenate([v.scores for v in views]).astype(np.float64)
    labels = np.array([label for v in views for label in v.labels], dtype=object)
    view = np.repeat(np.arange(len(views)), [len(v) for v in views])
    fused: list[tuple[float, NDArray[np.float64], str]] = []
    for label in sorted(set(labels.tolist())):
        of_class = np.flatnonzero(labels == label)
        order = of_class[np.argsort(-scores[of_class], kind="stable")]
        clusters = _cluster(boxes[order], scores[order], view[order], n_views=len(views))
        fused += [(score, box, label) for score, box in clusters]
    fused.sort(key=lambda one: -one[0])
    if not fused:
        return Boxes.none()
    return Boxes(
        xyxy=np.array([box for _, box, _ in fused], np.float32),
        scores=np.array([score for score, _, _ in fused], np.float32),
        labels=tuple(label for _, _, label in fused),
    )


def _cluster(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    view: NDArray[np.int64],
    *,
    n_views: int,
) -> list[tuple[float, NDArray[np.float64]]]:
    """Cluster boxes of one class, best first; return the score and mean box of each cluster."""
    mean = np.zeros((len(boxes), 4))
    weight = np.zeros(len(boxes))
    seen = np.zeros((len(boxes), n_views), np.bool_)
    count = 0
    for box, score, where in zip(boxes, scores, view, strict=True):
        overlaps = box_iou(box[None], mean[:count])[0]
        nearest = int(overlaps.argmax()) if count else -1
        if nearest >= 0 and overlaps[nearest] > FUSION_IOU:
            if seen[nearest, where]:
                continue
        else:
            nearest, count = count, count + 1
        total = weight[nearest] + score
        mean[nearest] = (mean[nearest] * weight[nearest] + box * score) / total
        weight[nearest] = total
        seen[nearest, where] = True
    return [(float(weight[i]) / n_views, mean[i]) for i in range(count)]


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

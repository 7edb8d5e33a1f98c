"""Prompt encoder and mask decoder as networks for inference engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from toolkit.data.images import read_rgb
from toolkit.data.types import Sample
from toolkit.methods.base import Graph, Outputs, SharedNetwork
from toolkit.methods.sam.batched_decoder import decode_points
from toolkit.methods.sam.encoder import Encoder
from toolkit.methods.sam.engine_decoder import predicted_ious
from toolkit.methods.sam.evaluate import true_mask
from toolkit.methods.sam.targets import Target, region_targets
from toolkit.metrics.masks import mask_iou
from toolkit.runtime.prompts import box_prompt
from toolkit.runtime.segmentation import (
    INPUT_SIZE,
    POINTS,
    decoder_inputs,
    scale_to_input,
    to_image_size,
)
from toolkit.weights.checkpoint import tensors_sha256

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

_SHAPE = (1, 256, 64, 64)
_PARITY_IMAGES = 4
_TOLERANCE = 0.005
"""What an engine may lose in IoU, and by how much it may predict IoUs otherwise."""
_IOU_TOLERANCE = 1e-4


def decoder_graph(sam: Sam, samples: Callable[[], Sequence[Sample]] = tuple) -> Graph:
    """Return prompt encoder and mask decoder, for first prompts of one image.

    Its inputs are `embedding` (1, 256, 64, 64), `points` float32 (B, 2, 2) in pixels of SAM's
    input, and `labels` int64 (B, 2), see `Prompt`; its outputs `iou_tokens` (B, 256), of which
    `ious_graph` makes IoUs, and `logits` (B, 256, 256) of the single mask. They are apart, since
    bfloat16 has too few digits of an IoU to rank images by.

    Engines are compared by the mean IoU of the masks that true boxes get, and by the predicted
    IoUs; without samples, by the mean Jaccard distance of masks on noise.

    Args:
        sam: the model.
        samples: returns defective samples to compare on; the first ones are taken.
    """

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sam = sam

        def forward(self, embedding: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
            decoded = decode_points(self.sam, embedding, points, labels)
            return decoded.tokens[:, 0], decoded.low_res_logits(masks=1)[:, 0]

    groups: list[list[Target]] = []

    def inputs() -> list[tuple[NDArray[Any], ...]]:
        encoder = Encoder(sam)

        def encoded(image: NDArray[np.uint8]) -> NDArray[np.float32]:
            return encoder(image)[None].float().cpu().numpy()

        groups[:] = _by_image(region_targets(samples()[:_PARITY_IMAGES]))
        if groups:
            return [
                decoder_inputs(
                    encoded(read_rgb(group[0].sample.image)),
                    [box_prompt(target.box_xyxy) for target in group],
                    scale_to_input(group[0].size_wh),
                )
                for group in groups
            ]
        draw = np.random.default_rng(0)
        noise = draw.integers(0, 256, (2, 320, 320, 3), np.uint8)
        boxes = [(k * INPUT_SIZE / 8, 99, 800 - k, 900) for k in range(3)]
        prompts = [box_prompt(box) for box in boxes]
        return [decoder_inputs(encoded(image), prompts, 1.0) for image in noise]

    def distance(found: Sequence[Outputs], expected: Sequence[Outputs]) -> float:
        apart = [
            float(np.abs(predicted_ious(sam, ours[0]) - predicted_ious(sam, theirs[0])).mean())
            for ours, theirs in zip(found, expected, strict=True)
        ]
        if not groups:
            return max(float(np.mean(apart)), _jaccard_distance(found, expected))
        means = [
            np.mean([_true_iou(logits, target)
                     for (_, masks), group in zip(outputs, groups, strict=True)
                     for logits, target in zip(masks, group, strict=True)])
            for outputs in (found, expected)
        ]  # fmt: skip
        return max(float(np.mean(apart)), float(means[1] - means[0]))

    trained = {**sam.prompt_encoder.state_dict(prefix="prompt_encoder."),
               **sam.mask_decoder.state_dict(prefix="mask_decoder.")}  # fmt: skip
    shared = SharedNetwork(
        f"decoder of first prompts, {tensors_sha256(trained)}", inputs, distance, _TOLERANCE,
        "mean IoU of masks under true boxes, and predicted IoUs",
    )  # fmt: skip
    example: dict[str, NDArray[Any]] = {
        "embedding": np.zeros(_SHAPE, np.float32),
        "points": np.zeros((2, POINTS, 2), np.float32),
        "labels": np.zeros((2, POINTS), np.int64),
    }
    free = {"points": {0: "prompts"}, "labels": {0: "prompts"}}
    return Graph(Network().eval(), example, ("iou_tokens", "logits"), free, shared=shared)


def ious_graph(sam: Sam) -> Graph:
    """Return the head that predicts IoUs: from `iou_tokens` (B, 256) to `ious` (1, B)."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = sam.mask_decoder.iou_prediction_head

        def forward(self, tokens: Tensor) -> tuple[Tensor]:
            return (self.head(tokens)[:, 0][None],)

    def inputs() -> list[tuple[NDArray[np.float32]]]:
        return [(np.random.default_rng(0).standard_normal((64, 256), np.float32),)]

    def distance(found: Sequence[Outputs], expected: Sequence[Outputs]) -> float:
        return float(np.abs(found[0][0] - expected[0][0]).max())

    head = sam.mask_decoder.iou_prediction_head.state_dict()
    shared = SharedNetwork(
        f"predicted IoUs, {tensors_sha256(head)}", inputs, distance, _IOU_TOLERANCE, "IoUs of noise"
    )
    example = {"iou_tokens": np.zeros((2, 256), np.float32)}
    return Graph(Network().eval(), example, ("ious",), {"iou_tokens": {0: "prompts"}}, True, shared)


def _by_image(targets: Sequence[Target]) -> list[list[Target]]:
    groups: dict[str, list[Target]] = {}
    for target in targets:
        groups.setdefault(target.sample.id, []).append(target)
    return list(groups.values())


def _true_iou(logits: NDArray[np.float32], target: Target) -> float:
    mask = to_image_size(logits, target.size_wh) > 0
    return float(mask_iou(mask, true_mask(target)))  # type: ignore[arg-type]


def _jaccard_distance(found: Sequence[Outputs], expected: Sequence[Outputs]) -> float:
    """Return the mean distance of masks, from which no mean IoU with any truth differs by more."""
    apart = []
    for (_, ours), (_, theirs) in zip(found, expected, strict=True):
        for one, other in zip(ours > 0, theirs > 0, strict=True):
            apart.append(1 - float((one & other).sum() / max((one | other).sum(), 1)))
    return float(np.mean(apart))

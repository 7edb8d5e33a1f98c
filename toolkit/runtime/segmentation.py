"""SAM without torch: an image is encoded once, all prompts are decoded together, masks joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.runtime.answer import Answer
from toolkit.runtime.prompts import Finding, Prompt, grid_prompts, prompts_of_finding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Network = Callable[..., Sequence[NDArray[np.float32]]]
    Ask = Callable[[NDArray[np.uint8]], Finding]

INPUT_SIZE = 1024
"""Side of SAM's square input; the longer side of an image is scaled to it."""

POINTS = 2
"""Of a first prompt: a box has two, a click one and padding."""

PROMPTS_PER_CALL = 16
"""Of a decoder, which limits its memory."""


class SegmentationSteps:
    """Prompts become masks; those that score nearly as well as the best are joined.

    The network is SAM's image encoder.

    Args:
        record: `decoders`: which answers a `box` and which a `click`; `mask_threshold`,
            `score_ratio`, `max_prompts`, `prompt_confidence` and `points_per_side`, as in the
            settings of `sam`.
        networks: the decoders, by name, and for each `<name>_ious`, which predicts IoUs.
        prompters: `prompt_run`, the model that prompts; without it a grid does.

    Raises:
        ValueError: a decoder is missing.
    """

    def __init__(
        self,
        record: Mapping[str, Any],
        networks: Mapping[str, Network],
        prompters: Mapping[str, Ask],
    ) -> None:
        from PIL import Image  # noqa: F401 - missing packages are said before the first image

        self._threshold, self._ratio = float(record["mask_threshold"]), float(record["score_ratio"])
        self._limit, self._confidence = (
            int(record["max_prompts"]), float(record["prompt_confidence"])
        )  # fmt: skip
        self._points_per_side = int(record["points_per_side"])
        self._decoders = {kind: str(record["decoders"][kind]) for kind in ("box", "click")}
        for name in self._decoders.values():
            if not {name, f"{name}_ious"} <= set(networks):
                raise ValueError(f"no decoder {name}")
        self._networks, self._prompter = networks, prompters.get("prompt_run")

    def predict(self, image: NDArray[np.uint8], network: Network) -> Answer:
        """Return the answer for an RGB image (H, W, 3), which has a mask.

        Raises:
            PromptError: what prompts found nothing that can prompt.
        """
        height, width = image.shape[:2]
        prompts, confidences = self._prompts(image, (width, height))
        mask = np.zeros((height, width), np.bool_)
        if not prompts:
            return Answer(0.0, mask=mask)
        # Rounded as encodings are that are stored.
        embedding = network(sam_input(image))[0].astype(np.float16).astype(np.float32)
        ious, logits = self._decode(embedding, prompts, scale_to_input((width, height)))
        scores = confidences * ious
        for index in np.flatnonzero(scores >= self._ratio * scores.max()):
            mask |= to_image_size(logits[index], (width, height)) > self._threshold
        return Answer(float(scores.max()), mask=mask)

    def _prompts(
        self, image: NDArray[np.uint8], size_wh: tuple[int, int]
    ) -> tuple[list[Prompt], NDArray[np.float32]]:
        if self._prompter is None:
            grid = grid_prompts(size_wh, self._points_per_side)
            return grid, np.ones(len(grid), np.float32)
        found = self._prompter(image)
        return prompts_of_finding(found, size_wh, limit=self._limit, confidence=self._confidence)

    def _decode(
        self, embedding: NDArray[np.float32], prompts: Sequence[Prompt], scale: float
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Return the predicted IoU and the mask logits (256, 256) of each prompt."""
        ious = np.zeros(len(prompts), np.float32)
        logits: list[Any] = [None] * len(prompts)
        names = [self._decoders["box" if prompt.is_box else "click"] for prompt in prompts]
        for name in dict.fromkeys(names):
            numbers = [n for n, own in enumerate(names) if own == name]
            for start in range(0, len(numbers), PROMPTS_PER_CALL):
                part = numbers[start : start + PROMPTS_PER_CALL]
                inputs = decoder_inputs(embedding, [prompts[n] for n in part], scale)
                tokens, masks = self._networks[name](*inputs)
                ious[part] = self._networks[f"{name}_ious"](tokens)[0]
                for number, one in zip(part, masks, strict=True):
                    logits[number] = one
        return ious, logits


def scale_to_input(size_wh: tuple[int, int]) -> float:
    """Return the factor from image pixels to SAM's input pixels."""
    return INPUT_SIZE / max(size_wh)


def sam_input(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale an RGB image (H, W, 3) to SAM's square.

    Returns:
        uint8 array (1, 1024, 1024, 4); the fourth channel is 255 in the image, 0 in the padding.
    """
    from PIL import Image

    scale = scale_to_input((image.shape[1], image.shape[0]))
    height, width = (int(side * scale + 0.5) for side in image.shape[:2])
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    padded = np.zeros((1, INPUT_SIZE, INPUT_SIZE, 4), np.uint8)
    padded[0, :height, :width, :3] = np.asarray(resized)
    padded[0, :height, :width, 3] = 255
    return padded


def decoder_inputs(
    embedding: NDArray[np.float32], prompts: Sequence[Prompt], scale: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the inputs of a decoder: embedding, points in pixels of SAM's input, labels.

    Args:
        embedding: float32 array (1, 256, 64, 64).
        prompts: first prompts, in pixels of the image or of its view.
        scale: from these to pixels of SAM's input, see `scale_to_input`.
    """
    points = np.stack([prompt.coords for prompt in prompts]) * np.float32(scale)
    return embedding, points, np.stack([prompt.labels for prompt in prompts])


def to_image_size(logits: NDArray[np.float32], size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Scale mask logits to the image: up to the input square, padding off, then to image pixels.

    Args:
        logits: float32 array (256, 256).
        size_wh: width and height of the image.

    Returns:
        float32 array (H, W).
    """
    import cv2

    width, height = size_wh
    scale = scale_to_input(size_wh)
    inner = (int(height * scale + 0.5), int(width * scale + 0.5))
    low = np.ascontiguousarray(logits, np.float32)
    square = cv2.resize(low, (INPUT_SIZE, INPUT_SIZE), interpolation=cv2.INTER_LINEAR)
    square = square[: inner[0], : inner[1]]
    if inner == (height, width):
        return np.ascontiguousarray(square, np.float32)
    scaled: NDArray[np.float32] = cv2.resize(
        square, (width, height), interpolation=cv2.INTER_LINEAR
    )
    return scaled

"""SAM as a predictor: one encoding per image, all prompts decoded together, good masks joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from toolkit.errors import DataError
from toolkit.methods.base import Predictor
from toolkit.methods.sam.batched_decoder import decode, scale_to_input, to_image_size
from toolkit.methods.sam.crops import Crop
from toolkit.methods.sam.encoder import ViewEmbeddings, encode, fuse_encoder
from toolkit.methods.sam.prompts import (
    Prompt,
    box_prompt,
    click_prompt,
    find_peaks,
    grid_prompts,
)
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.tta import NO_TTA, TTAConfig, predict_mask
from toolkit.prediction import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

_Masks = tuple["NDArray[np.float32]", Callable[[int], "NDArray[np.bool_]"]]
"""Predicted IoU of each prompt, and a function that returns the mask (H, W) of one."""

_CHUNK = 16
"""Prompts per call of the decoder, which limits its memory."""


class SamPredictor(Predictor):
    """A fine-tuned SAM, prompted by another predictor or by a grid of clicks.

    Args:
        sam: the model.
        settings: of the run.
        prompter: whose boxes or anomaly maps prompt; None for the grid.
    """

    def __init__(self, sam: Sam, settings: SamSettings, prompter: Predictor | None = None) -> None:
        self._sam = fuse_encoder(sam)
        self._settings, self._prompter = settings, prompter
        self._tta = tta_config(settings)

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return a mask and a score per image.

        The score is the best predicted IoU of any mask, times the confidence of its box or the
        height of its peak where another run prompts. Masks that score nearly as well are joined.
        """
        if self._prompter is None:
            sizes = [(image.shape[1], image.shape[0]) for image in images]
            grids = [grid_prompts(size, self._settings.points_per_side) for size in sizes]
            return [
                self._predict_one(image, grid, np.ones(len(grid), np.float32), NO_TTA)
                for image, grid in zip(images, grids, strict=True)
            ]
        return [
            self._predict_one(image, *prompts_of(found, image, self._settings), self._tta)
            for image, found in zip(images, self._prompter.predict(images), strict=True)
        ]

    @torch.no_grad()
    def _predict_one(
        self,
        image: NDArray[np.uint8],
        prompts: Sequence[Prompt],
        confidences: NDArray[np.float32],
        tta: TTAConfig,
    ) -> Prediction:
        if not prompts:
            return Prediction(0.0, mask=np.zeros(image.shape[:2], np.bool_))
        predict = self._decode_all if tta == NO_TTA else self._augment_all
        ious, mask_of = predict(image, prompts)
        scores = ious * confidences
        mask = np.zeros(image.shape[:2], np.bool_)
        for index in np.flatnonzero(scores >= self._settings.score_ratio * scores.max()):
            mask |= mask_of(int(index))
        return Prediction(float(scores.max()), mask=mask)

    def _decode_all(self, image: NDArray[np.uint8], prompts: Sequence[Prompt]) -> _Masks:
        """Encode once and decode all prompts together; masks are made on demand."""
        size_wh = (image.shape[1], image.shape[0])
        embedding, scale = encode(self._sam, image)[None], scale_to_input(size_wh)
        chunks = [prompts[i : i + _CHUNK] for i in range(0, len(prompts), _CHUNK)]
        decoded = [decode(self._sam, embedding, chunk, [scale] * len(chunk)) for chunk in chunks]

        def mask_of(index: int) -> NDArray[np.bool_]:
            chunk, row = divmod(index, _CHUNK)
            low_res = decoded[chunk].low_res_logits(slice(row, row + 1))[:, :1]
            logits = to_image_size(low_res, size_wh)[0, 0]
            mask: NDArray[np.bool_] = (logits > self._settings.mask_threshold).cpu().numpy()
            return mask

        return torch.cat([d.iou_predictions()[:, 0] for d in decoded]).cpu().numpy(), mask_of

    def _augment_all(self, image: NDArray[np.uint8], prompts: Sequence[Prompt]) -> _Masks:
        """Predict all prompts with test-time augmentation."""
        size_wh = (image.shape[1], image.shape[0])
        embedding_of, crops = ViewEmbeddings(self._sam, image), list[Crop]()
        found = [
            predict_mask(self._sam, embedding_of, prompt, size_wh, self._tta, crops)
            for prompt in prompts
        ]
        ious = np.array([prediction.mean_iou_prediction() for prediction in found], np.float32)
        return ious, lambda index: found[index].mask(self._settings.mask_threshold)


def tta_config(settings: SamSettings) -> TTAConfig:
    """Return the test-time augmentation of a run's prompts."""
    if not settings.tta:
        return NO_TTA
    crops = settings.tta_crops if settings.crop_scale > 0 else 0
    return TTAConfig(settings.tta_views, crops, settings.crop_scale, settings.max_crops)


def prompts_of(
    prediction: Prediction, image: NDArray[np.uint8], settings: SamSettings
) -> tuple[list[Prompt], NDArray[np.float32]]:
    """Turn another method's prediction into prompts: its boxes, or the peaks of its anomaly map.

    Args:
        prediction: of the same image.
        image: uint8 array (H, W, 3).
        settings: how many prompts, and how confident.

    Returns:
        The prompts, best first, and their confidences.

    Raises:
        DataError: the prediction has neither boxes nor an anomaly map, or a box lies outside the
            image.
    """
    height, width = image.shape[:2]
    if prediction.boxes is not None:
        boxes = prediction.boxes
        order = np.argsort(-boxes.scores, kind="stable")[: settings.max_prompts]
        kept = [int(i) for i in order if boxes.scores[i] >= settings.prompt_confidence]
        return [_box_inside(boxes.xyxy[i], (width, height)) for i in kept], boxes.scores[kept]
    if prediction.anomaly_map is not None:
        peaks = find_peaks(prediction.anomaly_map, (width, height), limit=settings.max_prompts)
        values = np.array([value for _, _, value in peaks], np.float32)
        return [click_prompt(x, y) for x, y, _ in peaks], values
    raise DataError(
        "the prompting run predicts neither boxes nor anomaly maps; use --prompt-run with a run of "
        "yolo, yolo-world or patchcore"
    )


def _box_inside(box_xyxy: NDArray[np.float32], size_wh: tuple[int, int]) -> Prompt:
    """Return the prompt of the part of a box that is in the image."""
    width, height = size_wh
    x0, y0 = (max(float(v), 0.0) for v in box_xyxy[:2])
    x1, y1 = min(float(box_xyxy[2]), float(width)), min(float(box_xyxy[3]), float(height))
    if not (np.isfinite(box_xyxy).all() and x0 < x1 and y0 < y1):
        numbers = ", ".join(f"{float(v):g}" for v in box_xyxy)
        raise DataError(
            f"prompting box ({numbers}) has no pixel in the image of {width} x {height}; "
            "train the prompting run again"
        )
    return box_prompt((x0, y0, x1, y1))

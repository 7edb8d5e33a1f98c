"""SAM as a predictor: each picture is encoded once, all prompts decoded together, masks joined."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.types import Sample
from toolkit.errors import DataError
from toolkit.methods.base import Engine, Graph, Predictor
from toolkit.methods.sam.decoder_graph import decoder_graph
from toolkit.methods.sam.embeddings import EmbeddingCache, ViewEmbeddings
from toolkit.methods.sam.encoder import Encoder, encoder_graph
from toolkit.methods.sam.prompts import (
    Prompt,
    box_prompt,
    click_prompt,
    find_peaks,
    grid_prompts,
)
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.tta import NO_TTA, Decoders, TTAConfig, predict_masks
from toolkit.prediction import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray


class SamPredictor(Predictor):
    """A fine-tuned SAM, prompted by another predictor or by a grid of clicks.

    Args:
        decoders: the models.
        settings: of the run.
        encoder_sha256: hash of their image encoder.
        prompter: whose boxes or anomaly maps prompt; None for the grid.
        store: keeps encodings for other prompters of the same images; None to keep none.
        samples: returns defective samples to compare inference engines on.
    """

    def __init__(
        self,
        decoders: Decoders,
        settings: SamSettings,
        encoder_sha256: str,
        prompter: Predictor | None = None,
        store: EmbeddingCache | None = None,
        samples: Callable[[], Sequence[Sample]] = tuple,
    ) -> None:
        self._decoders, self._settings, self._prompter = decoders, settings, prompter
        self._encoder_sha256, self._store, self._samples = encoder_sha256, store, samples
        self._encoder = Encoder(decoders.tuned)
        self._tta = tta_config(settings)
        self._encoding_seconds: float | None = None

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

    def graph(self) -> Graph:
        """Return the image encoder, which takes nearly all of the time."""
        return encoder_graph(self._decoders.tuned, self._encoder_sha256, self._samples)

    def parts(self) -> dict[str, Graph]:
        """Return the decoders, by their names in `Decoders.choice`."""
        return {
            name: decoder_graph(sam, self._samples)
            for name, sam in self._decoders.by_name().items()
        }

    def asked(self) -> dict[str, Predictor]:
        """Return the prompter, if another run prompts."""
        return {} if self._prompter is None else {"prompt_run": self._prompter}

    def with_engine(self, engine: Engine, name: str = "") -> SamPredictor:
        """Return a predictor that encodes in an engine; without a name it keeps no encodings."""
        other = copy.copy(self)
        # Apart from those of trainings, whose engine computes with other threads, in other bits.
        encoder = Encoder(self._decoders.tuned, engine, f"{name}, predicting")
        other.engine, other._encoder, other._store = engine, encoder, None
        if self._store is not None and name:
            other._store = self._store.encoded_by(encoder)
        return other

    def with_parts(
        self, engines: Mapping[str, Engine], asked: Mapping[str, Predictor]
    ) -> SamPredictor:
        """Return a predictor that decodes in engines, and that another predictor prompts."""
        other = copy.copy(self)
        other._decoders = replace(self._decoders, engines=engines)
        other._prompter = asked.get("prompt_run")
        in_engines = self.engine is not None and set(engines) == set(self._decoders.by_name())
        other.parallel = in_engines and all(one.parallel for one in asked.values())
        return other

    def _predict_one(
        self,
        image: NDArray[np.uint8],
        prompts: Sequence[Prompt],
        confidences: NDArray[np.float32],
        tta: TTAConfig,
    ) -> Prediction:
        mask = np.zeros(image.shape[:2], np.bool_)
        if not prompts:
            return Prediction(0.0, mask=mask)
        size_wh, threshold = (image.shape[1], image.shape[0]), self._settings.mask_threshold
        embeddings = ViewEmbeddings(self._encoder, image, self._store)
        found = predict_masks(self._decoders, embeddings, prompts, size_wh, tta, threshold)
        scores = confidences * np.array([one.mean_iou_prediction() for one in found], np.float32)
        for index in np.flatnonzero(scores >= self._settings.score_ratio * scores.max()):
            mask |= found[int(index)].mask(threshold)
        saved = embeddings.read * self._seconds_to_encode(image) if embeddings.read else None
        return Prediction(float(scores.max()), mask=mask, seconds=saved)

    def _seconds_to_encode(self, image: NDArray[np.uint8]) -> float:
        """Return what an encoding would have cost that was read instead."""
        if self._encoding_seconds is None:
            self._encoder(image)
            started = time.perf_counter()
            self._encoder(image)
            self._encoding_seconds = time.perf_counter() - started
        return self._encoding_seconds


def tta_config(settings: SamSettings) -> TTAConfig:
    """Return how often and how closely a run looks."""
    views, crops = (settings.tta_views, settings.tta_crops) if settings.tta else (1, 0)
    closer = settings.crop_scale > 0
    return TTAConfig(
        views,
        crops if closer else 0,
        settings.crop_scale,
        settings.max_crops,
        settings.crop_below if closer else 0.0,
    )


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

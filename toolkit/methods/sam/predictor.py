"""SAM as a predictor: each picture is encoded once, all prompts decoded together, masks joined."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.types import Sample
from toolkit.errors import DataError
from toolkit.methods.base import Engine, EnginePredictor, Graph, Predictor
from toolkit.methods.sam.decoder_graph import decoder_graph, ious_graph
from toolkit.methods.sam.embeddings import EmbeddingCache, ViewEmbeddings
from toolkit.methods.sam.encoder import Encoder, encoder_graph
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.tta import NO_TTA, Decoders, TTAConfig, predict_masks
from toolkit.prediction import Prediction
from toolkit.runtime.prompts import Prompt, PromptError, grid_prompts, prompts_of_finding

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
        self.precision = self._encoder.precision
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
        """Return the decoders, by their names in `Decoders.choice`, and `<name>_ious` of each."""
        graphs = {}
        for name, sam in self._decoders.by_name().items():
            graphs[name] = decoder_graph(sam, self._samples)
            graphs[f"{name}_ious"] = ious_graph(sam)
        return graphs

    def steps(self) -> dict[str, Any] | None:
        """Return what lies around the networks; None where several views of an image answer."""
        if self._tta.views > 1 or self._tta.crops or self._tta.crop_below:
            return None
        names = self._decoders.by_name()
        of_kinds = {k: self._decoders.choice.get(k, {}).get("large") for k in ("box", "click")}
        settings = self._settings
        return {
            "kind": "segmentation",
            "decoders": {k: name if name in names else "tuned" for k, name in of_kinds.items()},
            "mask_threshold": settings.mask_threshold,
            "score_ratio": settings.score_ratio,
            "max_prompts": settings.max_prompts,
            "prompt_confidence": settings.prompt_confidence,
            "points_per_side": settings.points_per_side,
        }

    def prompters(self) -> dict[str, Predictor]:
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
        self, engines: Mapping[str, Engine], prompters: Mapping[str, Predictor]
    ) -> Predictor:
        """Return a predictor that decodes in engines, and that another predictor prompts.

        It needs no torch where all is in engines and no encodings are kept.
        """
        names, steps = set(self._decoders.by_name()), self.steps()
        whole = names | {f"{name}_ious" for name in names} <= set(engines)
        in_engines = self.engine is not None and whole
        if in_engines and steps is not None and self._store is None:
            assert self.engine is not None
            return EnginePredictor(steps, self.engine, engines, prompters)
        other = copy.copy(self)
        other._decoders = replace(self._decoders, engines=engines)
        other._prompter = prompters.get("prompt_run")
        other.parallel = in_engines and all(one.parallel for one in prompters.values())
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
    try:
        return prompts_of_finding(
            prediction,
            (image.shape[1], image.shape[0]),
            limit=settings.max_prompts,
            confidence=settings.prompt_confidence,
        )
    except PromptError as error:
        raise DataError(str(error)) from error

"""Looks at an image: which views of it answer a prompt, and one mask as the mean over them.

A view is the whole image or a crop of it, turned, flipped and lightened. Training uses the same
views as cached augmentations: an embedding is expensive and augmentation normally forbids caching
it; a fixed handful of views per image allows both. View 0 is the image itself.

A prompt whose region is small is answered from a crop around it, any other from the whole image. A
box tells the size. A click does not; the mask of the whole image does. With test-time augmentation
the logits of several views are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from toolkit.d4 import D4
from toolkit.methods.sam.batched_decoder import LOGIT_LIMIT, DecodedPrompts, decode
from toolkit.methods.sam.crops import Box, Crop, shared_crop
from toolkit.methods.sam.engine_decoder import decode_in_engine
from toolkit.methods.sam.prompts import clicked_parts
from toolkit.runs.environment import computes_bfloat16
from toolkit.runtime.prompts import Prompt
from toolkit.runtime.segmentation import PROMPTS_PER_CALL, scale_to_input, to_image_size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

    from toolkit.methods.base import Engine

_BRIGHTNESS = (1.0, 0.85, 1.15, 0.92, 1.08, 0.8, 1.2, 1.0)
_TRANSFORMS = (
    D4(False, 0), D4(True, 1), D4(False, 2), D4(True, 3),
    D4(True, 0), D4(False, 1), D4(True, 2), D4(False, 3),
)  # fmt: skip
"""Of the views used in training: a small number of them already covers flips and quarter turns."""
_TTA_ORDER = (0, 3, 2, 1, 4, 7, 6, 5)
"""Of the views used in prediction: two of them already differ by a turn and a flip."""
VIEW_COUNT = len(_TRANSFORMS)


@dataclass(frozen=True)
class View:
    """The whole image or a crop of it, turned, flipped and lightened.

    Attributes:
        number: 0 to 7; 0 changes nothing.
        crop: the part of the image, before it is turned; None for all of it.
    """

    number: int = 0
    crop: Crop | None = None

    @property
    def transform(self) -> D4:
        """How the part is turned and flipped."""
        return _TRANSFORMS[self.number]

    def size_wh(self, image_wh: tuple[int, int]) -> tuple[int, int]:
        """Return width and height of the part, before it is turned."""
        if self.crop is None:
            return image_wh
        x0, y0, x1, y1 = self.crop
        return x1 - x0, y1 - y0

    def of_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the view of an RGB image (H, W, 3)."""
        turned = self.of_mask(image)
        factor = _BRIGHTNESS[self.number]
        if factor == 1.0:
            return turned
        lightened: NDArray[np.uint8] = np.clip(turned * np.float32(factor), 0, 255).astype(np.uint8)
        return lightened

    def of_mask(self, mask: NDArray[Any]) -> NDArray[Any]:
        """Return the view of a mask (H, W), whose brightness stays."""
        if self.crop is not None:
            x0, y0, x1, y1 = self.crop
            mask = mask[y0:y1, x0:x1]
        return self.transform.apply(mask)

    def of_prompt(self, prompt: Prompt, image_wh: tuple[int, int]) -> Prompt:
        """Return a prompt of the image as a prompt of the view."""
        corner = np.array([0, 0] if self.crop is None else self.crop[:2], np.float32)
        coords = self.transform.apply_points(prompt.coords - corner, self.size_wh(image_wh))
        if prompt.is_box:
            # Turned, other corners of the box come first and last.
            coords[:2] = np.stack([coords[:2].min(axis=0), coords[:2].max(axis=0)])
        return Prompt(coords, prompt.labels)


WHOLE = View()
SIZES = ("small", "large")
"""Of regions: small ones are answered from a crop, where the settings say so."""
EmbeddingFn = Callable[[View], Tensor]
"""Returns the embedding (256, 64, 64) of a view of the image at hand."""


def tta_views(count: int, crop: Crop | None = None) -> list[View]:
    """Return `count` views of a crop, or of the whole image, that differ much."""
    return [View(number, crop) for number in _TTA_ORDER[:count]]


@dataclass(frozen=True)
class TTAConfig:
    """How often and how closely SAM looks.

    Attributes:
        views: views of the whole image.
        crops: views of a crop, which join those of the whole image.
        crop_scale: side of the crop in longest sides of the region; 0 for no crop.
        max_crops: at most this many crops per image.
        crop_below: a region whose longest side is below this share of the image's longer side is
            answered from the crop alone.
    """

    views: int = 1
    crops: int = 0
    crop_scale: float = 0.0
    max_crops: int = 1
    crop_below: float = 0.0

    def size_of(self, box_xyxy: Box, image_wh: tuple[int, int]) -> str:
        """Return `small` or `large`, for a region's box."""
        x0, y0, x1, y1 = box_xyxy
        return SIZES[max(x1 - x0, y1 - y0) >= self.crop_below * max(image_wh)]

    def views_of(self, size: str, crop: Crop | None) -> list[View]:
        """Return the views that answer a prompt; without a crop, those of the whole image."""
        if crop is not None and size == "small":
            return tta_views(max(self.crops, 1), crop)
        closer = [] if crop is None else tta_views(self.crops, crop)
        return [*tta_views(self.views), *closer]


NO_TTA = TTAConfig()
"""The whole image, once."""


@dataclass(frozen=True)
class Decoders:
    """The decoders of a run, and which of them answers.

    Attributes:
        tuned: the fine-tuned model.
        zero_shot: the model before training; None where it never answers.
        choice: names of these two by kind of prompt (`box`, `click`) and size of region.
        engines: by these names, what runs their `decoder_graph` for first prompts.
    """

    tuned: Sam
    zero_shot: Sam | None = None
    choice: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    engines: Mapping[str, Engine] = field(default_factory=dict)

    def by_name(self) -> dict[str, Sam]:
        """Return the models that may answer, by their names in `choice`."""
        both = {"tuned": self.tuned, "zero_shot": self.zero_shot}
        return {name: sam for name, sam in both.items() if sam is not None}

    def answering(self, prompt: Prompt, size: str) -> Sam:
        """Return the model that answers a prompt."""
        name = self.choice.get("box" if prompt.is_box else "click", {}).get(size)
        if name == "zero_shot" and self.zero_shot is not None:
            return self.zero_shot
        return self.tuned

    def engine_of(self, model: Sam) -> Engine | None:
        """Return what decodes for one of the models; None for torch."""
        return self.engines.get("zero_shot" if model is self.zero_shot else "tuned")


@dataclass(frozen=True)
class _Answer:
    """One prompt in one view; its mask logits are made when they are asked for."""

    predicted_iou: float
    make_logits: Callable[[], Tensor]

    @cached_property
    def logits(self) -> Tensor:
        """Mask logits, float tensor (1, 256, 256)."""
        return self.make_logits()


@dataclass(frozen=True)
class MaskPrediction:
    """SAM's mask for one prompt, as the mean over views.

    Attributes:
        model: the model that predicted it.
        image_wh: width and height of the image.
        answers: by view.
    """

    model: Sam
    image_wh: tuple[int, int]
    answers: Mapping[View, _Answer]

    def mask(self, threshold: float = 0.0) -> NDArray[np.bool_]:
        """Return where the mean logit is above a threshold, (H, W); false outside all views."""
        width, height = self.image_wh
        if list(self.answers) == [WHOLE]:
            alone: NDArray[np.bool_] = self._in_view(WHOLE) > threshold
            return alone
        total = np.zeros((height, width), np.float32)
        count = np.zeros((height, width), np.float32)
        for view in self.answers:
            x0, y0, x1, y1 = view.crop or (0, 0, width, height)
            total[y0:y1, x0:x1] += view.transform.undo(self._in_view(view))
            count[y0:y1, x0:x1] += 1
        above: NDArray[np.bool_] = (total > threshold * count) & (count > 0)
        return above

    def mean_iou_prediction(self) -> float:
        """Return the mean of the predicted IoUs."""
        return float(np.mean([answer.predicted_iou for answer in self.answers.values()]))

    def _in_view(self, view: View) -> NDArray[np.float32]:
        """Return the logits of a view at its own size."""
        w, h = view.size_wh(self.image_wh)
        turned = (h, w) if view.transform.swaps_sides else (w, h)
        return to_image_size(self.answers[view].logits[0].cpu().numpy(), turned)


@torch.no_grad()
def predict_masks(
    decoders: Decoders,
    embedding_of: EmbeddingFn,
    prompts: Sequence[Prompt],
    image_wh: tuple[int, int],
    config: TTAConfig = NO_TTA,
    threshold: float = 0.0,
) -> list[MaskPrediction]:
    """Predict the masks of an image's first prompts, all that one model answers in one call.

    A click first looks at the whole image, whose mask tells the size of its region; a click that
    its own mask misses gets no crop. Prompts close to each other share a crop.

    Args:
        decoders: the models.
        embedding_of: embeddings of the image's views.
        prompts: in pixels of the image, the most important first.
        image_wh: width and height of the image.
        config: views and crops.
        threshold: of the masks that tell the size of a click's region.
    """
    crops: list[Crop] = []
    found: dict[int, MaskPrediction] = {}

    def answer(wanted: Mapping[int, tuple[str, list[View]]]) -> None:
        models = {n: decoders.answering(prompts[n], size) for n, (size, _) in wanted.items()}
        for model in dict.fromkeys(models.values()):
            jobs = [(n, view) for n in wanted if models[n] is model for view in wanted[n][1]]
            engine, pairs = decoders.engine_of(model), [(prompts[n], v) for n, v in jobs]
            run = _decode if engine is None else partial(_decode_in_engine, engine)
            answers = run(model, embedding_of, pairs, image_wh)
            for number in dict.fromkeys(n for n, _ in jobs):
                own = {v: a for (n, v), a in zip(jobs, answers, strict=True) if n == number}
                before = found.get(number)
                if before is not None and before.model is model and wanted[number][0] == "large":
                    own = {**before.answers, **own}
                found[number] = MaskPrediction(model, image_wh, own)

    def crop_of(box: Box, size: str) -> Crop | None:
        if not config.crops and size == "large":
            return None
        return shared_crop(box, image_wh, config.crop_scale, crops, config.max_crops)

    first: dict[int, tuple[str, list[View]]] = {}
    for number, prompt in enumerate(prompts):
        size, crop = "large", None
        if prompt.is_box:
            box = _box_of(prompt)
            size = config.size_of(box, image_wh)
            crop = crop_of(box, size)
        first[number] = size, config.views_of(size, crop)
    answer(first)
    closer: dict[int, tuple[str, list[View]]] = {}
    for number, prompt in enumerate(prompts):
        if prompt.is_box or not (config.crops or config.crop_below):
            continue
        place = clicked_box(prompt, found[number].mask(threshold))
        if place is None:
            continue
        size = config.size_of(place, image_wh)
        crop = crop_of(place, size)
        same = found[number].model is decoders.answering(prompt, size)
        views = [v for v in config.views_of(size, crop) if not (same and v in first[number][1])]
        if views:
            closer[number] = size, views
    answer(closer)
    return [found[number] for number in range(len(prompts))]


@torch.no_grad()
def refine(
    embedding_of: EmbeddingFn, prompt: Prompt, image_wh: tuple[int, int], previous: MaskPrediction
) -> MaskPrediction:
    """Predict the mask of a prompt that has one click more than that of the previous prediction."""
    feedback = torch.stack([answer.logits for answer in previous.answers.values()])
    feedback = feedback.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    jobs = [(prompt, view) for view in previous.answers]
    answers = _decode(previous.model, embedding_of, jobs, image_wh, feedback)
    by_view = {view: answer for (_, view), answer in zip(jobs, answers, strict=True)}
    return MaskPrediction(previous.model, image_wh, by_view)


def clicked_box(prompt: Prompt, mask: NDArray[np.bool_]) -> Box | None:
    """Return the box of the part of a mask that holds the first click; None if it misses it."""
    height, width = mask.shape
    x, y = (
        int(np.clip(round(float(c)), 0, n - 1))
        for c, n in zip(prompt.coords[0], (width, height), strict=True)
    )
    if not mask[y, x]:
        return None
    part = clicked_parts(mask, prompt)
    ys, xs = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)


def _box_of(prompt: Prompt) -> Box:
    (x0, y0), (x1, y1) = prompt.coords[:2].tolist()
    return x0, y0, x1 + 1, y1 + 1


def _decode(
    sam: Sam,
    embedding_of: EmbeddingFn,
    jobs: Sequence[tuple[Prompt, View]],
    image_wh: tuple[int, int],
    feedback: Tensor | None = None,
) -> list[_Answer]:
    """Decode prompts in views of one image together, in bfloat16 where that is native.

    Args:
        sam: the model.
        embedding_of: embeddings of the image's views.
        jobs: prompts in pixels of the image, each with a view.
        image_wh: width and height of the image.
        feedback: float tensor (B, 1, 256, 256), clamped logits of the previous round.
    """
    answers: list[_Answer] = []
    for start in range(0, len(jobs), PROMPTS_PER_CALL):
        part = jobs[start : start + PROMPTS_PER_CALL]
        views = list(dict.fromkeys(view for _, view in part))
        embeddings = torch.stack([embedding_of(view).float() for view in views]).to(sam.device)
        if len(views) > 1:
            embeddings = embeddings[[views.index(view) for _, view in part]]
        prompts = [view.of_prompt(prompt, image_wh) for prompt, view in part]
        scales = [scale_to_input(view.size_wh(image_wh)) for _, view in part]
        masks = None if feedback is None else feedback[start : start + PROMPTS_PER_CALL]
        with _autocast(sam.device):
            decoded = decode(sam, embeddings, prompts, scales, masks)
        # Not in bfloat16, which has too few digits to rank images by.
        ious = decoded.iou_predictions()[:, 0].tolist()
        answers += [_Answer(iou, partial(_logits_of, decoded, row)) for row, iou in enumerate(ious)]
    return answers


@torch.no_grad()
def _logits_of(decoded: DecodedPrompts, row: int) -> Tensor:
    with _autocast(decoded.tokens.device):
        logits = decoded.low_res_logits(slice(row, row + 1), masks=1)
    return logits[0].float()


def _decode_in_engine(
    engine: Engine,
    sam: Sam,
    embedding_of: EmbeddingFn,
    jobs: Sequence[tuple[Prompt, View]],
    image_wh: tuple[int, int],
) -> list[_Answer]:
    """Decode first prompts in views of one image, those of a view together; see `_decode`."""
    answers: dict[int, _Answer] = {}
    for view in dict.fromkeys(view for _, view in jobs):
        numbers = [n for n, (_, of) in enumerate(jobs) if of == view]
        prompts = [view.of_prompt(jobs[n][0], image_wh) for n in numbers]
        scale = scale_to_input(view.size_wh(image_wh))
        found = decode_in_engine(sam, engine, embedding_of(view), prompts, scale)
        for number, (iou, logits) in zip(numbers, found, strict=True):
            answers[number] = _Answer(iou, logits.float)
    return [answers[number] for number in range(len(jobs))]


def _autocast(device: torch.device) -> torch.autocast:
    # Without its cache, which threads would share.
    return torch.autocast(
        device.type, torch.bfloat16, enabled=computes_bfloat16(device), cache_enabled=False
    )

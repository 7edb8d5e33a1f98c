"""Views of an image, and test-time augmentation: one mask as the mean over several of them.

A view is the whole image or a crop of it, turned, flipped and lightened. Training uses the same
views as cached augmentations: an embedding is expensive and augmentation normally forbids caching
it; a fixed handful of views per image allows both. View 0 is the image itself.

With test-time augmentation the logits of several views of the whole image are averaged, and those
of a crop around the prompted place join the mean. A box tells the place. A click does not tell how
large its region is; the mask of the whole image does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from toolkit.d4 import D4
from toolkit.methods.sam.batched_decoder import LOGIT_LIMIT, decode, scale_to_input, to_image_size
from toolkit.methods.sam.crops import Box, Crop, shared_crop
from toolkit.methods.sam.prompts import Prompt, clicked_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

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
EmbeddingFn = Callable[[View], Tensor]
"""Returns the embedding (256, 64, 64) of a view of the image at hand."""


def tta_views(count: int, crop: Crop | None = None) -> list[View]:
    """Return `count` views of a crop, or of the whole image, that differ much."""
    return [View(number, crop) for number in _TTA_ORDER[:count]]


@dataclass(frozen=True)
class TTAConfig:
    """Test-time augmentation settings.

    Attributes:
        views: views of the whole image.
        crops: views of the crop around the prompted place.
        crop_scale: side of the crop in longest sides of the region; 0 for no crop.
        max_crops: at most this many crops per image.
    """

    views: int = 1
    crops: int = 0
    crop_scale: float = 0.0
    max_crops: int = 1


NO_TTA = TTAConfig()
"""The whole image, once."""


@dataclass(frozen=True)
class MaskPrediction:
    """SAM's mask for one prompt, as the mean over views.

    Attributes:
        model: the model that predicted it.
        total: float tensor (H, W), sum of the views' logits.
        count: float tensor (H, W), number of views that show the pixel.
        iou_predictions: predicted IoU by view.
        low_res_logits: the view's own logits (1, 256, 256), fed back when a click is added.
    """

    model: Sam
    total: Tensor
    count: Tensor
    iou_predictions: Mapping[View, float]
    low_res_logits: Mapping[View, Tensor]

    def mask(self, threshold: float = 0.0) -> NDArray[np.bool_]:
        """Return where the mean logit is above a threshold, (H, W); false outside all views."""
        above = (self.total > threshold * self.count) & (self.count > 0)
        mask: NDArray[np.bool_] = above.cpu().numpy()
        return mask

    def mean_iou_prediction(self) -> float:
        """Return the mean of the predicted IoUs."""
        return float(np.mean(list(self.iou_predictions.values())))


@torch.no_grad()
def predict_views(
    sam: Sam,
    embedding_of: EmbeddingFn,
    prompt: Prompt,
    image_wh: tuple[int, int],
    views: Sequence[View],
    previous: MaskPrediction | None = None,
) -> MaskPrediction:
    """Predict the mask of a prompt in several views in one call of the decoder.

    Args:
        sam: the model.
        embedding_of: embeddings of the image's views.
        prompt: in pixels of the image.
        image_wh: width and height of the image.
        views: of the image.
        previous: the prediction that the prompt refines, of the same views.
    """
    embeddings = torch.stack([embedding_of(view).float() for view in views]).to(sam.device)
    prompts = [view.of_prompt(prompt, image_wh) for view in views]
    scales = [scale_to_input(view.size_wh(image_wh)) for view in views]
    feedback = None
    if previous is not None:
        feedback = torch.stack([previous.low_res_logits[view] for view in views])
    decoded = decode(sam, embeddings, prompts, scales, feedback)
    logits = decoded.low_res_logits()[:, :1].float()
    total, count = _sum_in_image(logits, views, image_wh)
    kept = logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    return MaskPrediction(
        sam,
        total,
        count,
        iou_predictions=dict(zip(views, decoded.iou_predictions()[:, 0].tolist(), strict=True)),
        low_res_logits=dict(zip(views, kept, strict=True)),
    )


def predict_mask(
    sam: Sam,
    embedding_of: EmbeddingFn,
    prompt: Prompt,
    image_wh: tuple[int, int],
    config: TTAConfig = NO_TTA,
    crops: list[Crop] | None = None,
) -> MaskPrediction:
    """Predict the mask of a first prompt; a click that its own mask misses gets no crop.

    Args:
        sam: the model.
        embedding_of: embeddings of the image's views.
        prompt: in pixels of the image.
        image_wh: width and height of the image.
        config: views and crops to average over.
        crops: the image's crops so far, which further prompts share; new ones are added.
    """
    whole = predict_views(sam, embedding_of, prompt, image_wh, tta_views(config.views))
    if not config.crops:
        return whole
    box = prompt_box(prompt, whole, image_wh)
    if box is None:
        return whole
    crops = [] if crops is None else crops
    crop = shared_crop(box, image_wh, config.crop_scale, crops, config.max_crops)
    if crop is None:
        return whole
    views = tta_views(config.crops, crop)
    return merge(whole, predict_views(sam, embedding_of, prompt, image_wh, views))


def refine(
    embedding_of: EmbeddingFn, prompt: Prompt, image_wh: tuple[int, int], previous: MaskPrediction
) -> MaskPrediction:
    """Predict the mask of a prompt that has one click more than that of the previous prediction."""
    views = list(previous.low_res_logits)
    return predict_views(previous.model, embedding_of, prompt, image_wh, views, previous)


def merge(one: MaskPrediction, other: MaskPrediction) -> MaskPrediction:
    """Return one model's prediction from the views of both."""
    return MaskPrediction(
        one.model,
        one.total + other.total,
        one.count + other.count,
        iou_predictions={**one.iou_predictions, **other.iou_predictions},
        low_res_logits={**one.low_res_logits, **other.low_res_logits},
    )


def prompt_box(prompt: Prompt, prediction: MaskPrediction, image_wh: tuple[int, int]) -> Box | None:
    """Return the box of a prompt or, for a click, of the part of the mask that holds it.

    Returns:
        None where the mask misses the click.
    """
    if prompt.is_box:
        (x0, y0), (x1, y1) = prompt.coords[:2].tolist()
        return x0, y0, x1 + 1, y1 + 1
    mask = prediction.mask()
    x, y = (
        int(np.clip(round(float(c)), 0, n - 1))
        for c, n in zip(prompt.coords[0], image_wh, strict=True)
    )
    if not mask[y, x]:
        return None
    mask = clicked_parts(mask, prompt)
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)


def _sum_in_image(
    logits: Tensor, views: Sequence[View], image_wh: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Add up the logits of several views at the image's resolution.

    Args:
        logits: float tensor (B, 1, 256, 256), one mask per view.
        views: B views.
        image_wh: width and height of the image.

    Returns:
        Sum of the logits and number of views that show the pixel, float tensors (H, W).
    """
    width, height = image_wh
    total = torch.zeros(height, width, device=logits.device)
    count = torch.zeros(height, width, device=logits.device)
    for low, view in zip(logits, views, strict=True):
        w, h = view.size_wh(image_wh)
        turned = (h, w) if view.transform.swaps_sides else (w, h)
        scaled = to_image_size(low[None], turned)[0, 0].cpu().numpy()
        part = torch.from_numpy(view.transform.undo(scaled)).to(logits.device)
        x0, y0, x1, y1 = view.crop or (0, 0, width, height)
        total[y0:y1, x0:x1] += part
        count[y0:y1, x0:x1] += 1
    return total, count

"""Looks: one prompt is answered from several frames, and close up where the place is known.

The frames' logits are averaged. A box says where to look closely. A click does not say how large
its region is: a first look at the whole image does.

Regions under 32 pixels squared are rare in a few dozen masks, so that training makes their answers
worse. They are left to the untouched model, which is asked first where a prompt may mean one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from toolkit.methods.sam.decoder import LOW_SIZE, decode, scale_to_input
from toolkit.methods.sam.frames import Frame, frames_of, prompt_in, to_image
from toolkit.methods.sam.losses import SMALL_SHARE
from toolkit.methods.sam.prompts import BOX_FIRST, POSITIVE, Prompt
from toolkit.methods.sam.windows import Window, window_around

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

Shown = Callable[[Frame], Tensor]
"""Gives the embedding (256, 64, 64) of a frame of the image at hand."""
Box = tuple[float, float, float, float]
_FEEDBACK_MOST = 32.0
_UNSEEN_SHARE = 0.1
"""A click that the first look misses is taken for a region of this share of the image's side."""
_AGREEMENT = 0.5
"""IoU of the untouched model's answers in two views, from which on they are the same speck."""


@dataclass(frozen=True)
class Looks:
    """How an answer is looked for.

    Attributes:
        views: frames of the whole image.
        closer: frames of the window.
        zoom: side of the window in longest sides of the region; 0 for no window.
        threshold: mean logits above it are the mask.
        smooth: standard deviation of the Gaussian that mean logits are smoothed with, in pixels of
            the decoder's grid; 0 for none.
        untouched: the model before training, which answers where the region is small, once and
            with its own threshold; None for nobody. It shares the image encoder.
    """

    views: int = 1
    closer: int = 0
    zoom: float = 0.0
    threshold: float = 0.0
    smooth: float = 0.0
    untouched: Sam | None = None


PLAIN = Looks()
"""SAM as everybody uses it: once, at the whole image."""


@dataclass(frozen=True)
class Answer:
    """What SAM says for one prompt, from all frames so far.

    Attributes:
        by: the model that says it, and is told what to correct.
        total: float tensor (H, W), sum of the frames' logits.
        count: float tensor (H, W), how many frames show the pixel.
        quality: predicted IoU by frame.
        low: the frame's own logits (1, 256, 256), which it is told when a click is added.
        threshold: mean logits above it are the mask.
        sigma: of the Gaussian that they are smoothed with before, in the image's pixels.
    """

    by: Sam
    total: Tensor
    count: Tensor
    quality: Mapping[Frame, float]
    low: Mapping[Frame, Tensor]
    threshold: float = 0.0
    sigma: float = 0.0

    def mask(self) -> NDArray[np.bool_]:
        """Return where the mean logit is above the threshold, (H, W); never where nobody looked."""
        looked = self.count > 0
        above = self.total / self.count.clamp_min(1) - self.threshold * looked
        mean = above.cpu().numpy()  # 0 where nobody looked
        if self.sigma > 0:
            import cv2

            mean = cv2.GaussianBlur(mean, (0, 0), self.sigma)
        said: NDArray[np.bool_] = (mean > 0) & looked.cpu().numpy()
        return said

    def mean_quality(self) -> float:
        """Return the mean of the predicted IoUs."""
        return float(np.mean(list(self.quality.values())))


@torch.no_grad()
def look(
    sam: Sam,
    shown: Shown,
    prompt: Prompt,
    image_wh: tuple[int, int],
    frames: Sequence[Frame],
    before: Answer | None = None,
) -> Answer:
    """Decode a prompt in several frames in one call.

    Args:
        sam: the model.
        shown: embeddings of the image's frames.
        prompt: in pixels of the image.
        image_wh: width and height of the image.
        frames: what to look at.
        before: the answer that the prompt corrects; it has been given from the same frames.
    """
    embeddings = torch.stack([shown(frame).float() for frame in frames]).to(sam.device)
    prompts = [prompt_in(prompt, frame, image_wh) for frame in frames]
    scales = [scale_to_input(frame.size_wh(image_wh)) for frame in frames]
    told = None if before is None else torch.stack([before.low[frame] for frame in frames])
    decoded = decode(sam, embeddings, prompts, scales, told)
    said = decoded.logits[:, 0].float()
    total, count = to_image(said, frames, image_wh)
    return Answer(
        sam,
        total,
        count,
        quality=dict(zip(frames, decoded.quality[:, 0].tolist(), strict=True)),
        low={
            f: s[None].clamp(-_FEEDBACK_MOST, _FEEDBACK_MOST)
            for f, s in zip(frames, said, strict=True)
        },
    )


def answer(
    sam: Sam,
    shown: Shown,
    prompt: Prompt,
    image_wh: tuple[int, int],
    looks: Looks,
    choose: Callable[[Box], Window | None] | None = None,
) -> Answer:
    """Answer a first prompt from the whole image and, where there is one, from a window.

    Where the first look misses the click, the look at the window stands alone: the mean of both
    would miss it too. Small regions are answered by the untouched model, if there is one.

    Args:
        sam: the model.
        shown: embeddings of the image's frames.
        prompt: in pixels of the image.
        image_wh: width and height of the image.
        looks: how an answer is looked for.
        choose: gives the window for a place; None for the place's own.
    """
    if looks.untouched is not None:
        small = _of_small(looks.untouched, shown, prompt, image_wh)
        if small is not None:
            return small
    said = _looked(sam, shown, prompt, image_wh, looks, choose)
    sigma = looks.smooth * max(image_wh) / LOW_SIZE
    return replace(said, threshold=looks.threshold, sigma=sigma)


def _of_small(
    untouched: Sam, shown: Shown, prompt: Prompt, image_wh: tuple[int, int]
) -> Answer | None:
    """Return the untouched model's answer if the prompt means a small region.

    That is a box of a small area, or a click of which the untouched model says in two views that
    it means the same small region.
    """
    limit = SMALL_SHARE * max(image_wh) ** 2
    first, second = frames_of(2)
    corners = np.flatnonzero(prompt.labels == BOX_FIRST)
    if len(corners):
        low, high = prompt.coords[int(corners[0]) : int(corners[0]) + 2]
        if float(np.prod(high - low + 1)) >= limit:
            return None
        return look(untouched, shown, prompt, image_wh, [first])
    said = look(untouched, shown, prompt, image_wh, [first])
    mask = said.mask()
    if not 0 < mask.sum() < limit:
        return None
    again = look(untouched, shown, prompt, image_wh, [second]).mask()
    agreement = (mask & again).sum() / (mask | again).sum()
    return said if again.sum() < limit and agreement >= _AGREEMENT else None


def _looked(
    sam: Sam,
    shown: Shown,
    prompt: Prompt,
    image_wh: tuple[int, int],
    looks: Looks,
    choose: Callable[[Box], Window | None] | None,
) -> Answer:
    whole = look(sam, shown, prompt, image_wh, frames_of(looks.views))
    if not looks.closer:
        return whole
    place = place_of(prompt, whole, image_wh)
    box = place or _around(prompt, image_wh)
    window = choose(box) if choose else window_around(box, image_wh, looks.zoom)
    if window is None:
        return whole
    close = look(sam, shown, prompt, image_wh, frames_of(looks.closer, window))
    return joined(whole, close) if place else close


def corrected(shown: Shown, prompt: Prompt, image_wh: tuple[int, int], before: Answer) -> Answer:
    """Answer a prompt that has got one more click, as the answer before was given."""
    said = look(before.by, shown, prompt, image_wh, list(before.low), before)
    return replace(said, threshold=before.threshold, sigma=before.sigma)


def joined(one: Answer, other: Answer) -> Answer:
    """Return one model's answer from the frames of both."""
    return Answer(
        one.by,
        one.total + other.total,
        one.count + other.count,
        quality={**one.quality, **other.quality},
        low={**one.low, **other.low},
    )


def place_of(prompt: Prompt, first: Answer, image_wh: tuple[int, int]) -> Box | None:
    """Return the box of a prompt or, for a click, of the part of the answer that holds it.

    Returns:
        None where the answer misses the click.
    """
    corners = np.flatnonzero(prompt.labels == BOX_FIRST)
    if len(corners):
        (x0, y0), (x1, y1) = prompt.coords[int(corners[0]) : int(corners[0]) + 2].tolist()
        return x0, y0, x1 + 1, y1 + 1
    mask = first.mask()
    x, y = (
        int(np.clip(round(float(c)), 0, n - 1))
        for c, n in zip(prompt.coords[0], image_wh, strict=True)
    )
    if not mask[y, x]:
        return None
    mask = under_clicks(mask, prompt)
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)


def _around(prompt: Prompt, image_wh: tuple[int, int]) -> Box:
    """Return the box that a click is taken for where nothing tells more."""
    x, y = prompt.coords[0].tolist()
    half = _UNSEEN_SHARE * min(image_wh) / 2
    return x - half, y - half, x + half, y + half


def under_clicks(mask: NDArray[np.bool_], prompt: Prompt) -> NDArray[np.bool_]:
    """Keep of a mask the connected parts that hold a click on the object, or else the nearest one.

    A box is no click: under it all parts are kept.

    Args:
        mask: bool array (H, W).
        prompt: in the mask's pixels.
    """
    import cv2

    clicks = prompt.coords[prompt.labels == POSITIVE]
    if not len(clicks) or (prompt.labels == BOX_FIRST).any() or not mask.any():
        return mask
    _, parts = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    height, width = mask.shape
    xs = np.clip(clicks[:, 0].round().astype(int), 0, width - 1)
    ys = np.clip(clicks[:, 1].round().astype(int), 0, height - 1)
    hit = set(parts[ys, xs].tolist()) - {0}
    if not hit:
        row, column = np.nonzero(mask)
        nearest = ((row - ys[0]) ** 2 + (column - xs[0]) ** 2).argmin()
        hit = {int(parts[row[nearest], column[nearest]])}
    kept: NDArray[np.bool_] = np.isin(parts, sorted(hit))
    return kept

"""What is in one image: all of its prompts answered, with few windows among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from toolkit.methods.sam.decoder import decode, scale_to_input, to_image_size
from toolkit.methods.sam.frames import frames_of
from toolkit.methods.sam.looks import Box, Looks, Shown, answer, under_clicks
from toolkit.methods.sam.prompts import Prompt
from toolkit.methods.sam.windows import Window, window_around

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

_CHUNK = 16
_WIDER = 2.0
"""A window up to this factor wider than a prompt's own serves it as well."""

Answers = tuple["NDArray[np.bool_]", "NDArray[np.float32]"]
"""Masks (n, H, W) and predicted IoUs (n,)."""


def answer_prompts(
    sam: Sam,
    shown: Shown,
    prompts: Sequence[Prompt],
    image_wh: tuple[int, int],
    looks: Looks,
    *,
    limit: int,
) -> Answers:
    """Answer prompts, the best first, each from the whole image and from a window around it.

    Args:
        sam: the model.
        shown: embeddings of the image's frames.
        prompts: at least one.
        image_wh: width and height of the image.
        looks: how an answer is looked for.
        limit: at most this many windows; a prompt that lies well in one that is there uses it.
    """
    windows: list[Window] = []

    def choose(place: Box) -> Window | None:
        return _window_for(place, image_wh, looks.zoom, windows, limit)

    masks, quality = [], []
    for prompt in prompts:
        said = answer(sam, shown, prompt, image_wh, looks, choose)
        masks.append(under_clicks(said.mask(), prompt))
        quality.append(said.mean_quality())
    return np.stack(masks), np.array(quality, np.float32)


def answer_grid(
    sam: Sam, shown: Shown, prompts: Sequence[Prompt], image_wh: tuple[int, int]
) -> Answers:
    """Answer many clicks from one look at the whole image, in chunks."""
    masks, quality = [], []
    embedding = shown(frames_of(1)[0]).float()
    with torch.no_grad():
        for start in range(0, len(prompts), _CHUNK):
            chunk = prompts[start : start + _CHUNK]
            repeated = embedding.expand(len(chunk), -1, -1, -1)
            decoded = decode(sam, repeated, chunk, [scale_to_input(image_wh)] * len(chunk))
            masks.append((to_image_size(decoded.logits[:, :1], image_wh)[:, 0] > 0).cpu().numpy())
            quality.append(decoded.quality[:, 0].cpu().numpy())
    return np.concatenate(masks), np.concatenate(quality)


def _window_for(
    place_xyxy: Box,
    image_wh: tuple[int, int],
    zoom: float,
    windows: list[Window],
    limit: int,
) -> Window | None:
    """Return a place's window, or one that is there and serves; new ones are added to the list."""
    own = window_around(place_xyxy, image_wh, zoom)
    if own is None:
        return None
    for there in windows:
        inside = all(a >= b for a, b in zip(place_xyxy[:2], there[:2], strict=True)) and all(
            a <= b for a, b in zip(place_xyxy[2:], there[2:], strict=True)
        )
        if inside and there[2] - there[0] <= _WIDER * (own[2] - own[0]):
            return there
    if len(windows) == limit:
        return None
    windows.append(own)
    return own

"""Frames: what SAM is shown of an image, which is all of it or a window, turned and flipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from toolkit.methods.sam.decoder import to_image_size
from toolkit.methods.sam.prompts import BOX_FIRST, Prompt
from toolkit.methods.sam.views import (
    points_in_view,
    turns_on_its_side,
    undo_view,
    view_of_array,
    view_of_image,
)
from toolkit.methods.sam.windows import Window, cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FAR_APART = (0, 3, 2, 1, 4, 7, 6, 5)
"""Views in the order in which they join: two of them already differ by a turn and a flip."""


@dataclass(frozen=True)
class Frame:
    """A part of an image in one view.

    Attributes:
        view: number of the view, see `views`.
        window: the part of the image, before it is turned; None for all of it.
    """

    view: int = 0
    window: Window | None = None

    def size_wh(self, image_wh: tuple[int, int]) -> tuple[int, int]:
        """Return width and height of the part, before it is turned."""
        if self.window is None:
            return image_wh
        x0, y0, x1, y1 = self.window
        return x1 - x0, y1 - y0


WHOLE = Frame()


def frames_of(count: int, window: Window | None = None) -> list[Frame]:
    """Return `count` frames of a window, or of the whole image, in views that differ much."""
    return [Frame(view, window) for view in _FAR_APART[:count]]


def seen_in(image: NDArray[np.uint8], frame: Frame) -> NDArray[np.uint8]:
    """Return what a frame shows of an RGB image (H, W, 3)."""
    return view_of_image(cut(image, frame.window), frame.view)


def mask_in(mask: NDArray[np.bool_], frame: Frame) -> NDArray[np.bool_]:
    """Return what a frame shows of a mask (H, W)."""
    shown: NDArray[np.bool_] = view_of_array(cut(mask, frame.window), frame.view)
    return shown


def prompt_in(prompt: Prompt, frame: Frame, image_wh: tuple[int, int]) -> Prompt:
    """Return a prompt of the image as a prompt of what the frame shows."""
    corner = np.array([0, 0] if frame.window is None else frame.window[:2], np.float32)
    coords = points_in_view(prompt.coords - corner, frame.view, frame.size_wh(image_wh))
    first = np.flatnonzero(prompt.labels == BOX_FIRST)
    if len(first):
        # Turned, other corners of the box come first and last.
        at = slice(int(first[0]), int(first[0]) + 2)
        coords[at] = np.stack([coords[at].min(axis=0), coords[at].max(axis=0)])
    return Prompt(coords, prompt.labels)


def to_image(
    logits: Tensor, frames: Sequence[Frame], image_wh: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Add up what several frames say, at the image's resolution.

    Args:
        logits: float tensor (B, 256, 256), one mask per frame.
        frames: B frames.
        image_wh: width and height of the image.

    Returns:
        Sum of the logits and number of frames that show the pixel, float tensors (H, W).
    """
    width, height = image_wh
    total = torch.zeros(height, width, device=logits.device)
    count = torch.zeros(height, width, device=logits.device)
    for low, frame in zip(logits, frames, strict=True):
        w, h = frame.size_wh(image_wh)
        turned = (h, w) if turns_on_its_side(frame.view) else (w, h)
        shown = to_image_size(low[None, None], turned)[0, 0].cpu().numpy()
        part = torch.from_numpy(undo_view(shown, frame.view)).to(logits.device)
        x0, y0, x1, y1 = frame.window or (0, 0, width, height)
        total[y0:y1, x0:x1] += part
        count[y0:y1, x0:x1] += 1
    return total, count

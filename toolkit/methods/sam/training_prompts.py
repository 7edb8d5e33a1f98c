"""Random prompts of the training of the decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.boxes import jitter_box
from toolkit.methods.sam.prompts import click_on_error, likely_pixel, random_pixel, with_click
from toolkit.runtime.prompts import Prompt, box_prompt, click_prompt
from toolkit.runtime.segmentation import INPUT_SIZE, scale_to_input

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from toolkit.methods.sam.settings import SamSettings
    from toolkit.methods.sam.targets import Target


def first_prompt(target: Target, settings: SamSettings, rng: np.random.Generator) -> Prompt:
    """Return a jittered box of a target, or a click on it."""
    if rng.random() < settings.box_prompt_prob:
        return box_prompt(
            jitter_box(target.box_xyxy, target.size_wh, rng, share=settings.box_jitter)
        )
    x0, y0, x1, y1 = target.box_xyxy
    if target.region is None:
        return click_prompt(float(rng.integers(x0, x1)), float(rng.integers(y0, y1)))
    x, y = likely_pixel(target.region.crop, rng)
    return click_prompt(x0 + x, y0 + y)


def with_random_click(
    prompt: Prompt, size_wh: tuple[int, int], mask: Tensor, true: Tensor, rng: np.random.Generator
) -> Prompt:
    """Add a click on the error; where there is none, one on the object (or beside it).

    Args:
        prompt: in pixels of the image.
        size_wh: width and height of the image.
        mask: predicted, bool tensor (h, w).
        true: the same of the truth.
        rng: draws the pixel.
    """
    predicted, truth = mask.cpu().numpy(), true.cpu().numpy()
    found = click_on_error(predicted, truth, rng)
    if found is None:
        found = (*random_pixel(truth if truth.any() else ~truth, rng), bool(truth.any()))
    x, y, positive = found
    per_pixel = INPUT_SIZE / len(truth) / scale_to_input(size_wh)
    width, height = size_wh
    x, y = (min((c + 0.5) * per_pixel, n - 1) for c, n in ((x, width), (y, height)))
    return with_click(prompt, x, y, positive=positive)

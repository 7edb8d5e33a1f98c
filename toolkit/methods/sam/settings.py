"""Settings of the SAM method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.config import setting


@dataclass(frozen=True)
class SamSettings:
    """See `configs/sam/default.yaml`."""

    model: Literal["mobile-sam", "sam-vit-b", "sam-vit-l", "sam-vit-h"] = setting(
        "mobile-sam", "which SAM; its image encoder stays frozen"
    )
    weights: str = setting(
        "pretrained", "pretrained, auto (none where they cannot be fetched), none, or a FILE"
    )
    train: Literal["decoder", "decoder+prompt", "lora"] = setting(
        "decoder", "which parts learn; lora also adapts the encoder, so nothing is cached"
    )
    epochs: int = setting(20, "passes over all training regions in all frames; 0 is zero-shot")
    coarse: float = setting(0.8, "share of the epochs on a grid of half the resolution")
    validate_every: int = setting(4, "epochs between two looks at the validation part")
    views: int = setting(4, "cached turned, flipped and lightened views per image (1 to 8)")
    windows: int = setting(3, "cached windows per region, of random size, place and view")
    zoom: float = setting(2.0, "side of a window in longest sides of the region; 0 for no windows")
    batch: int = setting(4, "prompts per step, decoded in one call")
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "of the training step; auto is bfloat16 where the device computes it natively"
    )
    lr: float = setting(2e-4, "peak learning rate of the one-cycle schedule")
    weight_decay: float = setting(1e-4, "AdamW weight decay")
    ema: float = setting(0.98, "decay of the weights' moving average, which is what is kept")
    box_share: float = setting(0.35, "share of first prompts that are boxes; the rest are clicks")
    jitter: float = setting(0.1, "noise of training boxes, in shares of their sides")
    corrections: int = setting(1, "rounds of a click on the error with the mask fed back")
    correction_share: float = setting(0.25, "share of the steps that go on to these rounds")
    negatives: int = setting(
        12, "good images, one place each per epoch, that teach the quality to stay low"
    )
    patience: int = setting(5, "validations without a better IoU before stopping")
    grid: int = setting(8, "points per side of the grid that prompts where no other run does")
    prompt_confidence: float = setting(0.05, "boxes of the prompting run below this are ignored")
    looks: int = setting(8, "views of the image that an answer is the mean of")
    closer: int = setting(1, "views of the window around the prompted place that join the mean")
    smooth: float = setting(
        1.0, "standard deviation of a Gaussian over that mean of logits, in the decoder's pixels"
    )
    threshold: float = setting(-0.5, "of what is smoothed; pixels above it are the mask")
    small: Literal["untouched", "tuned"] = setting(
        "untouched", "which decoder answers where a region is under 32 pixels squared of 900"
    )
    window_limit: int = setting(3, "at most this many windows per image when a run prompts")
    prompt_limit: int = setting(10, "at most this many boxes of the prompting run per image")
    keep: float = setting(0.5, "masks scoring at least this share of the best join the answer")

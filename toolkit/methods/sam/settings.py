"""Settings of the SAM method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.config import setting


@dataclass(frozen=True)
class SamSettings:
    """Settings of training (the first ones) and of prediction."""

    model: Literal["mobile-sam", "sam-vit-b", "sam-vit-l", "sam-vit-h"] = setting(
        "mobile-sam", "which SAM; its image encoder stays frozen"
    )
    weights: str = setting(
        "pretrained", "pretrained, auto (none where they cannot be fetched), none, or a FILE"
    )
    epochs: int = setting(20, "passes over all training regions in all views; 0 is zero-shot")
    lr: float = setting(2e-4, "peak learning rate of the one-cycle schedule")
    tta: bool = setting(
        False, "test-time augmentation: mean over views and a crop, ten times as slow"
    )
    max_prompts: int = setting(10, "most boxes or peaks of the prompting run per image")
    mask_threshold: float = setting(0.0, "pixels with a larger logit are the mask")
    batch: int = setting(4, "prompts per training step")
    processes: int = setting(
        1, "training processes that divide each step, one per card or on the processor"
    )
    samples_per_epoch: int = setting(
        300,
        "most prompts per epoch; of many regions, each has fewer cached views",
        advanced=True,
    )
    trainable: Literal["decoder", "decoder+prompt"] = setting(
        "decoder", "train the mask decoder alone or the prompt encoder as well", advanced=True
    )
    low_res_fraction: float = setting(
        0.8,
        "fraction of the epochs at half the resolution, where a step costs a third",
        advanced=True,
    )
    validate_every: int = setting(4, "epochs between two validations", advanced=True)
    patience: int = setting(
        5, "validations without a better IoU before training stops", advanced=True
    )
    augmentations: int = setting(
        4, "cached turned, flipped and lightened views per image (1 to 8)", advanced=True
    )
    crops_per_region: int = setting(
        3, "cached crops per region, of random size, place and view", advanced=True
    )
    crop_scale: float = setting(
        2.0, "side of a crop in longest sides of its region; 0 for no crops", advanced=True
    )
    crop_below: float = setting(
        0.0,
        "regions whose longest side is below this share of the image's are answered from a crop; "
        "0: all from the whole image",
        advanced=True,
    )
    max_crops: int = setting(3, "most crops per image, each of which is encoded", advanced=True)
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "of the training step; auto is bfloat16 where the device computes it natively",
        advanced=True,
    )
    weight_decay: float = setting(1e-4, "weight decay of AdamW", advanced=True)
    ema: float = setting(
        0.98, "decay of the moving average of the weights, which is kept", advanced=True
    )
    box_prompt_prob: float = setting(
        0.35, "probability that a first prompt is a box, not a click", advanced=True
    )
    box_jitter: float = setting(
        0.1, "noise of training boxes, in shares of their sides", advanced=True
    )
    refinement_clicks: int = setting(
        1, "further clicks on the error, with the mask fed back", advanced=True
    )
    refinement_prob: float = setting(
        0.25, "probability that a step includes these clicks", advanced=True
    )
    negative_images: int = setting(
        12,
        "good images, one place each per epoch, that teach the predicted IoU to stay low",
        advanced=True,
    )
    points_per_side: int = setting(8, "grid of clicks where no other run prompts", advanced=True)
    prompt_confidence: float = setting(0.05, "least confidence of a prompting box", advanced=True)
    score_ratio: float = setting(
        0.5, "masks that score at least this share of the best are joined", advanced=True
    )
    tta_views: int = setting(8, "with tta: views of the whole image (1 to 8)", advanced=True)
    tta_crops: int = setting(
        1, "with tta: views of the crop around the prompted place (0 to 8)", advanced=True
    )

    def __post_init__(self) -> None:
        """Check the numbers of views.

        Raises:
            ValueError: there are no such many views.
        """
        for name, least in (("augmentations", 1), ("tta_views", 1), ("tta_crops", 0)):
            if not least <= getattr(self, name) <= 8:
                raise ValueError(f"{name}={getattr(self, name)}: choose {least} to 8")
        for name in (
            "batch",
            "processes",
            "samples_per_epoch",
            "validate_every",
            "points_per_side",
            "max_prompts",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: choose 1 or more")

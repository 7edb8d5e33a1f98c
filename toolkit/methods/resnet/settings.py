"""Settings of the image classifier."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from toolkit.config import setting


@dataclass(frozen=True)
class ResNetSettings:
    """What can be set; see `configs/resnet/`."""

    network: str = setting(
        "tf_efficientnet_lite0",
        "resnet18, resnet34, resnet50, wide_resnet50_2, mobilenet_v2, or any network of timm",
    )
    weights: str = setting(
        "auto",
        "IMAGENET1K_V1, IMAGENET1K_V2, none, or a file with a state dict; auto is V1 where it can "
        "be reached, else from scratch, and auto:IMAGENET1K_V2 likewise",
    )
    classes: Literal["types", "binary"] = setting(
        "types", "types: good and every defect type; binary: good and defect"
    )
    image_size: int = setting(224, "images are resized to this many pixels square")
    head_epochs: int = setting(
        20, "epochs at first in which only the head learns, on images that are not augmented"
    )
    head_lr: float = setting(3e-3, "learning rate of those epochs")
    epochs: int = setting(12, "epochs after them")
    lr: float = setting(3e-4, "learning rate at the start of the epochs after them")
    schedule: Literal["constant", "cosine", "linear"] = setting(
        "cosine", "how the learning rate falls to zero, or not at all"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = setting("adamw", "optimiser; sgd has momentum 0.9")
    weight_decay: float = setting(0.01, "weight decay of the optimiser")
    batch: int = setting(16, "images per step")
    epoch_images: int = setting(
        0, "images drawn for one epoch; 0 draws as many as the training part has"
    )
    train_layers: Literal["head", "last-block", "all"] = setting(
        "all", "layers that learn after the head epochs"
    )
    batch_norm: Literal["train", "frozen"] = setting(
        "frozen", "statistics of batch normalisation in layers that learn: train them, or keep them"
    )
    augment: Literal["none", "light", "strong"] = setting(
        "strong", "strength of augmentation after the head epochs"
    )
    mixup: float = setting(0.0, "alpha of mixup after the head epochs; 0 is off")
    label_smoothing: float = setting(0.0, "share of each label spread over all classes")
    balance: Literal["none", "sampler", "class-weights"] = setting(
        "none", "against class imbalance: sampler draws, class-weights weighs, rare classes more"
    )
    choose: Literal["balanced-accuracy", "auroc", "loss", "last"] = setting(
        "balanced-accuracy", "validation figure that chooses the epoch to keep; last keeps the last"
    )
    patience: int = setting(
        0, "stop after so many epochs without a better validation figure; 0 never stops"
    )

    def __post_init__(self) -> None:
        """Reject values that no training could use.

        Raises:
            ValueError: a value is out of range; the message names the key.
        """
        _require(self.image_size >= 8, "image_size", self.image_size, "at least 8")
        _require(self.batch >= 1, "batch", self.batch, "at least 1")
        for key in ("head_epochs", "epochs", "patience", "epoch_images"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        _require(self.head_epochs + self.epochs >= 1, "epochs", self.epochs, "at least 1")
        for key in ("lr", "head_lr"):
            _require(getattr(self, key) > 0, key, getattr(self, key), "above 0")
        for key in ("weight_decay", "mixup"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "label_smoothing", smoothing, "from 0 to below 1")


def from_scratch(settings: ResNetSettings) -> ResNetSettings:
    """Return the settings for a network without pretrained weights: everything learns throughout.

    Frozen random layers, and batch statistics that were never measured, would be a handicap.
    """
    return replace(
        settings,
        train_layers="all",
        batch_norm="train",
        head_epochs=0,
        epochs=settings.head_epochs + settings.epochs,
    )


def _require(holds: bool, key: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{key}={value}: must be {wanted}")

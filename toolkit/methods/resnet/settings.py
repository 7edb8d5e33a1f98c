"""Settings of the image classifier."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from toolkit.config import setting

RETRAINED = ("crt", "smote")
"""Remedies that train the head anew, on the features that the other epochs have learnt."""


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
    grey: Literal["repeat", "refuse"] = setting(
        "repeat", "grey images: repeat their channel three times, or refuse them"
    )
    pooled_layers: tuple[str, ...] = setting(
        (),
        "layers whose maps are pooled (average and maximum), joined and standardised as features, "
        "such as blocks.4,blocks.6; without any the network's own pooled output",
    )
    views: int = setting(
        1,
        "quarter turns and mirror images (1 to 8) of each image: frozen layers learn from all of "
        "them, predictions are averaged over them",
    )
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
    batch_norm: Literal["train", "frozen", "measured"] = setting(
        "frozen",
        "statistics of batch normalisation in layers that learn: train them, keep them, or train "
        "them and measure them on the training images after each epoch",
    )
    augment: Literal["none", "light", "strong"] = setting(
        "strong", "strength of augmentation after the head epochs"
    )
    mixup: float = setting(0.0, "alpha of mixup after the head epochs; 0 is off")
    label_smoothing: float = setting(0.0, "share of each label spread over all classes")
    balance: Literal[
        "none",
        "sampler",
        "class-weights",
        "effective-number",
        "focal",
        "logit-adjustment",
        "balanced-softmax",
        "crt",
        "smote",
        "deepsmote",
    ] = setting("none", "remedy for class imbalance; see docs/resnet.md")
    effective_beta: float = setting(0.999, "beta of effective-number")
    focal_gamma: float = setting(2.0, "gamma of focal")
    logit_tau: float = setting(1.0, "tau of logit-adjustment")
    retrain_epochs: int = setting(30, "epochs at the end in which crt and smote train a new head")
    smote_neighbours: int = setting(5, "neighbours k of smote and deepsmote")
    deepsmote_size: int = setting(32, "side in pixels of the images that deepsmote makes")
    deepsmote_epochs: int = setting(150, "epochs of deepsmote's encoder and decoder")
    deepsmote_penalty: Literal["paper", "reconstruction", "none"] = setting(
        "paper", "penalty term of deepsmote: as the paper has it, as its code has it, or none"
    )
    precision: Literal["float32", "bfloat16", "auto"] = setting(
        "float32",
        "number format of the epochs after the head epochs; auto is bfloat16 where it is native",
    )
    choose: Literal["balanced-accuracy", "auroc", "loss", "last", "none"] = setting(
        "balanced-accuracy",
        "validation figure that chooses the epoch to keep; last keeps the last; none too, and "
        "learns from the validation images, since they choose nothing",
    )
    validate_every: int = setting(1, "epochs from one validation to the next; the last has one")
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
        _require(1 <= self.views <= 8, "views", self.views, "from 1 to 8")
        for key in ("smote_neighbours", "deepsmote_epochs", "retrain_epochs", "validate_every"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        _require(
            self.deepsmote_size in (16, 32, 64, 128),
            "deepsmote_size",
            self.deepsmote_size,
            "16, 32, 64 or 128",
        )
        beta = self.effective_beta
        _require(0 <= beta < 1, "effective_beta", beta, "from 0 to below 1")
        for key in ("head_epochs", "epochs", "patience", "epoch_images"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        _require(self.head_epochs + self.epochs >= 1, "epochs", self.epochs, "at least 1")
        for key in ("lr", "head_lr"):
            _require(getattr(self, key) > 0, key, getattr(self, key), "above 0")
        for key in ("weight_decay", "mixup", "focal_gamma", "logit_tau"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        if self.choose == "none" and self.patience:
            raise ValueError(f"patience={self.patience}: must be 0 where choose=none")
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "label_smoothing", smoothing, "from 0 to below 1")


def from_scratch(settings: ResNetSettings) -> ResNetSettings:
    """Return the settings for a network without pretrained weights: everything learns throughout.

    Frozen random layers would be a handicap, and so would batch statistics that are running means
    over a few steps while the weights run away from them.
    """
    return replace(
        settings,
        train_layers="all",
        batch_norm="measured",
        head_epochs=0,
        epochs=settings.head_epochs + settings.epochs,
    )


def _require(holds: bool, key: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{key}={value}: must be {wanted}")

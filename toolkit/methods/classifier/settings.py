"""Settings of the image classifier."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from toolkit.config import setting

RETRAINS_HEAD = ("crt", "smote")
"""Remedies that end with a new head on the features that the other epochs have learned."""


@dataclass(frozen=True)
class ClassifierSettings:
    """Settings of the classifier; `configs/classifier/` and `configs/resnet/` hold other sets."""

    network: str = setting(
        "tf_efficientnet_lite0",
        "network of torchvision (such as resnet18, resnet50) or of timm",
    )
    weights: str = setting(
        "pretrained",
        "pretrained, auto (from scratch where they cannot be fetched), auto:NAME, none, a name of "
        "`toolkit weights list`, or a checkpoint file",
    )
    classes: Literal["types", "binary"] = setting(
        "types", "types: good and every defect type; binary: good and defect"
    )
    image_size: int = setting(320, "images are resized to a square of this many pixels")
    grayscale: Literal["repeat", "refuse"] = setting(
        "repeat",
        "grayscale images: repeat their channel three times, or refuse them",
        advanced=True,
    )
    pooled_layers: tuple[str, ...] = setting(
        ("auto",),
        "layers, such as blocks.4,blocks.6, whose average- and max-pooled maps are the features; "
        "auto: the last two depths of the network; its own pooled output if empty",
        advanced=True,
    )
    augmentations: int = setting(
        1, "flips and quarter turns (1 to 8) of each image that the head learns from while the "
        "other layers are frozen",
     advanced=True)  # fmt: skip
    tta: bool = setting(
        False, "average the prediction over all eight flips and quarter turns (8 times slower)"
    )
    head_epochs: int = setting(
        10,
        "rounds of 20 steps of L-BFGS for the head alone, on features that are computed once",
        advanced=True,
    )
    head_c: float = setting(
        0.1,
        "how freely the head fits: C of scikit-learn's LogisticRegression",
        advanced=True,
    )
    finetune_epochs: int = setting(
        0, "epochs of fine-tuning from the head on, kept where validation gains by them"
    )
    lr: float = setting(1e-4, "learning rate at the start of fine-tuning")
    schedule: Literal["constant", "cosine", "linear"] = setting(
        "cosine", "decay of the learning rate to zero", advanced=True
    )
    optimizer: Literal["adam", "adamw", "sgd"] = setting(
        "adamw", "optimizer; sgd has momentum 0.9", advanced=True
    )
    weight_decay: float = setting(0.01, "weight decay of the optimizer", advanced=True)
    batch: int = setting(16, "images per step", advanced=True)
    samples_per_epoch: int = setting(
        64, "images drawn for an epoch; 0 draws as many as the training part has", advanced=True
    )
    train_layers: Literal["head", "last-block", "all"] = setting(
        "all", "layers that fine-tuning trains", advanced=True
    )
    batch_norm: Literal["train", "frozen", "recalibrated"] = setting(
        "frozen",
        "batch norm statistics of trained layers: train them, keep them, or train them and "
        "recompute them from all training images before each validation",
        advanced=True,
    )
    augmentation_strength: Literal["none", "light", "strong"] = setting(
        "strong", "random rotation, scale, shift and lighting while fine-tuning", advanced=True
    )
    mixup: float = setting(0.0, "alpha of mixup while fine-tuning; 0 is off", advanced=True)
    label_smoothing: float = setting(
        0.0, "share of each label that is spread over all classes", advanced=True
    )
    imbalance: Literal[
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
    ] = setting("sampler", "remedy for class imbalance; see docs/classifier.md")
    effective_beta: float = setting(0.999, "beta of effective-number", advanced=True)
    focal_gamma: float = setting(2.0, "gamma of focal", advanced=True)
    logit_tau: float = setting(1.0, "tau of logit-adjustment", advanced=True)
    retrain_epochs: int = setting(
        10, "last rounds, in which crt and smote train a new head", advanced=True
    )
    smote_num_neighbors: int = setting(
        5, "nearest neighbors k of smote and deepsmote", advanced=True
    )
    deepsmote_size: int = setting(
        32, "side in pixels of the images that deepsmote makes", advanced=True
    )
    deepsmote_epochs: int = setting(
        150, "epochs of the encoder and decoder of deepsmote", advanced=True
    )
    deepsmote_penalty: Literal["paper", "reconstruction", "none"] = setting(
        "paper",
        "penalty term of deepsmote: of the paper, of its published code, or none",
        advanced=True,
    )
    precision: Literal["float32", "bfloat16", "auto"] = setting(
        "float32",
        "number format of fine-tuning; auto is bfloat16 where the processor computes it",
        advanced=True,
    )
    monitor: Literal["auroc", "balanced-accuracy", "loss", "last", "none"] = setting(
        "auroc",
        "validation figure that chooses the epoch; auroc decides ties by balanced accuracy; last "
        "keeps the last epoch; none too, and trains on the validation images as well",
        advanced=True,
    )
    validate_every: int = setting(
        1, "epochs between validations; the last epoch has one", advanced=True
    )
    patience: int = setting(
        0,
        "stop after so many epochs without a better validation figure; 0 never stops",
        advanced=True,
    )

    def __post_init__(self) -> None:
        """Reject values that no training could use.

        Raises:
            ValueError: a value is out of range; the message names the key.
        """
        at_least = {
            "image_size": 8, "batch": 1, "smote_num_neighbors": 1, "deepsmote_epochs": 1,
            "retrain_epochs": 1, "validate_every": 1, "head_epochs": 0, "finetune_epochs": 0,
            "patience": 0, "samples_per_epoch": 0, "weight_decay": 0, "mixup": 0,
            "focal_gamma": 0, "logit_tau": 0, "effective_beta": 0, "label_smoothing": 0,
        }  # fmt: skip
        for key, lowest in at_least.items():
            self._require(key, getattr(self, key) >= lowest, f"at least {lowest}")
        for key in ("lr", "head_c"):
            self._require(key, getattr(self, key) > 0, "above 0")
        for key in ("effective_beta", "label_smoothing"):
            self._require(key, getattr(self, key) < 1, "below 1")
        self._require("augmentations", 1 <= self.augmentations <= 8, "from 1 to 8")
        sizes = (16, 32, 64, 128)
        self._require("deepsmote_size", self.deepsmote_size in sizes, "16, 32, 64 or 128")
        epochs = self.head_epochs + self.finetune_epochs
        self._require("finetune_epochs", epochs > 0, "at least 1 without head epochs")
        self._require(
            "patience", self.monitor != "none" or not self.patience, "0 with monitor=none"
        )

    def _require(self, key: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{key}={getattr(self, key)}: must be {wanted}")


SCRATCH_EPOCHS = 32


def from_scratch(settings: ClassifierSettings) -> ClassifierSettings:
    """Return the settings for a network without pretrained weights: all layers are trained.

    `finetune_epochs` counts, or `SCRATCH_EPOCHS` where it is 0.

    Batch norm is recalibrated, because after a few steps per epoch its running statistics belong to
    weights of many steps ago.
    """
    return replace(
        settings,
        train_layers="all",
        batch_norm="recalibrated",
        head_epochs=0,
        finetune_epochs=settings.finetune_epochs or SCRATCH_EPOCHS,
    )

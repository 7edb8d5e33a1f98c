"""Phases of a training, and what each optimizes: layers, learning rate, loss, order of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.imbalance.losses import (
    balanced_softmax_logits,
    class_counts,
    effective_number_weights,
    focal_loss,
    inverse_frequency_weights,
    logit_shift,
)
from toolkit.imbalance.sampling import balanced_order, shuffled_order
from toolkit.methods.classifier.network import ClassificationNetwork
from toolkit.methods.classifier.settings import RETRAINS_HEAD, ClassifierSettings

_SGD_MOMENTUM = 0.9


@dataclass(frozen=True)
class Phase:
    """Some epochs that train the same layers; each phase has an optimizer of its own.

    Attributes:
        start, end: first epoch (counted from 0), and the one after the last.
        layers: the layers that are trained.
        lr: learning rate at the start.
        augmentation_strength, mixup: as in the settings.
        retrains: whether it starts from the best model so far, with a new head.
        convex: whether the head alone is fitted to all images at once, until it no longer changes.
    """

    start: int
    end: int
    layers: str
    lr: float
    augmentation_strength: str = "none"
    mixup: float = 0.0
    retrains: bool = False
    convex: bool = False

    @property
    def constant_features(self) -> bool:
        """Whether the backbone gives the same features in every epoch."""
        return self.layers == "head" and self.augmentation_strength == "none" and self.mixup == 0


def phases_of(settings: ClassifierSettings) -> list[Phase]:
    """Return the phases that have epochs: the head, fine-tuning, perhaps a new head."""
    head, end = settings.head_epochs, settings.head_epochs + settings.finetune_epochs
    retrain = settings.retrain_epochs if settings.imbalance in RETRAINS_HEAD else 0
    finetune = Phase(
        head, end, settings.train_layers, settings.lr, settings.augmentation_strength,
        settings.mixup,
    )  # fmt: skip
    phases = [
        Phase(0, head, "head", 1.0, convex=True),
        finetune,
        Phase(end, end + retrain, "head", 1.0, retrains=True, convex=True),
    ]
    return [phase for phase in phases if phase.end > phase.start]


def learning_rate(schedule: str, base: float, progress: float) -> float:
    """Return the learning rate at a point of a phase.

    Args:
        schedule: `constant`, `cosine` (half a wave) or `linear`, the latter two down to 0.
        base: at the start.
        progress: from 0 to 1.
    """
    if schedule == "cosine":
        return base * (1 + math.cos(math.pi * progress)) / 2
    return base * (1 - progress) if schedule == "linear" else base


def make_optimizer(
    model: ClassificationNetwork, settings: ClassifierSettings, phase: Phase
) -> torch.optim.Optimizer:
    """Make the optimizer of a phase for the parameters that are trained.

    The bias of the head never decays: it holds how frequent the classes are.
    """
    if phase.convex:
        return torch.optim.LBFGS(model.head.parameters(), line_search_fn="strong_wolfe")
    lr = phase.lr
    trained = [p for p in model.parameters() if p.requires_grad and p is not model.head.bias]
    groups: list[dict[str, Any]] = [
        {"params": trained},
        {"params": [model.head.bias], "weight_decay": 0.0},
    ]
    # One pass over each tensor instead of several: a third of an epoch of small images.
    fused = model.head.weight.device.type in ("cpu", "cuda")
    decay = settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=lr, momentum=_SGD_MOMENTUM, weight_decay=decay, fused=fused
        )
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=lr, weight_decay=decay, fused=fused)


@dataclass(frozen=True)
class Objective:
    """What the remedy for class imbalance changes: order of images, loss and logits.

    Attributes:
        settings: of the method; `imbalance` and its numbers are read.
        labels: int64 (n,) of what is trained on; synthetic images count.
        classes: number of classes.
        phase: a head that is fitted to all images at once weighs the classes, where they would
            be drawn equally often.
    """

    settings: ClassifierSettings
    labels: Tensor
    classes: int
    phase: Phase

    @property
    def counts(self) -> Tensor:
        """Images per class, int64 (K,)."""
        return class_counts(self.labels, self.classes)

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the indices of one epoch."""
        count, remedy = self.settings.samples_per_epoch, self.settings.imbalance
        if self.phase.convex:
            return torch.arange(len(self.labels))
        if remedy == "sampler":
            return balanced_order(self.labels, self.classes, generator, count=count)
        return shuffled_order(self.labels, generator, count=count)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits (B, K) for shares of classes (B, K)."""
        settings, weights = self.settings, None
        smoothing = settings.label_smoothing
        if settings.imbalance == "focal":
            smooth = targets * (1 - smoothing) + smoothing / self.classes
            return focal_loss(logits, smooth, gamma=settings.focal_gamma)
        if settings.imbalance == "balanced-softmax":
            logits = balanced_softmax_logits(logits, self.counts)
        elif settings.imbalance == "class-weights" or (
            self.phase.convex
            and (
                settings.imbalance == "sampler"
                or (settings.imbalance == "crt" and self.phase.retrains)
            )
        ):
            weights = inverse_frequency_weights(self.counts).to(logits)
        elif settings.imbalance == "effective-number":
            weights = effective_number_weights(self.counts, settings.effective_beta).to(logits)
        return F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)

    def logit_shift(self) -> Tensor | None:
        """Return what is added to the logits in use, float32 (K,); None for nothing."""
        if self.settings.imbalance != "logit-adjustment":
            return None
        return logit_shift(self.counts, self.settings.logit_tau)

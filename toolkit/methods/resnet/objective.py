"""What the remedy for class imbalance changes in one training: order, loss and logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from toolkit.imbalance.losses import balanced_softmax_logits, focal_loss, logit_shift
from toolkit.imbalance.sampling import balanced_order, shuffled_order
from toolkit.imbalance.weights import (
    class_counts,
    effective_number_weights,
    inverse_frequency_weights,
)

if TYPE_CHECKING:
    import torch

    from toolkit.methods.resnet.settings import ResNetSettings


@dataclass(frozen=True)
class Objective:
    """The remedy of one training part.

    Attributes:
        settings: of the method; `balance` and its numbers are read.
        labels: int64 (n,) of what is trained on; synthetic images count.
        classes: number of classes.
    """

    settings: ResNetSettings
    labels: Tensor
    classes: int

    @property
    def counts(self) -> Tensor:
        """Images per class, int64 (K,)."""
        return class_counts(self.labels, self.classes)

    def order(self, generator: torch.Generator, *, retrains: bool) -> Tensor:
        """Return the indices of one epoch."""
        count, balance = self.settings.epoch_images, self.settings.balance
        if balance == "sampler" or (balance == "crt" and retrains):
            return balanced_order(self.labels, self.classes, generator, count=count)
        return shuffled_order(self.labels, generator, count=count)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits (B, K) under shares of classes (B, K)."""
        settings = self.settings
        smoothing = settings.label_smoothing
        if settings.balance == "focal":
            smooth = targets * (1 - smoothing) + smoothing / self.classes
            return focal_loss(logits, smooth, gamma=settings.focal_gamma)
        if settings.balance == "balanced-softmax":
            logits = balanced_softmax_logits(logits, self.counts)
        weights = self._weights()
        return F.cross_entropy(
            logits,
            targets,
            weight=None if weights is None else weights.to(logits),
            label_smoothing=smoothing,
        )

    def logit_shift(self) -> Tensor | None:
        """Return what is added to the logits in use, float32 (K,); None for nothing."""
        if self.settings.balance != "logit-adjustment":
            return None
        return logit_shift(self.counts, self.settings.logit_tau)

    def _weights(self) -> Tensor | None:
        if self.settings.balance == "class-weights":
            return inverse_frequency_weights(self.counts)
        if self.settings.balance == "effective-number":
            return effective_number_weights(self.counts, self.settings.effective_beta)
        return None

"""Scores of a classifier from its logits, while it trains and when it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.metrics.classification import classification_metrics
from toolkit.metrics.image import image_metrics
from toolkit.metrics.values import Undefined

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Validation:
    """How well a classifier does on the validation part.

    Attributes:
        loss: mean cross-entropy, without weights or smoothing.
        accuracy: share of right classes.
        balanced_accuracy: mean recall of the classes.
        auroc: of the anomaly score, good against defect; None where one of them is missing.
        confusion: rows are true classes, columns answers.
    """

    loss: float
    accuracy: float
    balanced_accuracy: float
    auroc: float | None
    confusion: tuple[tuple[int, ...], ...]

    def key(self, choice: str, epoch: int) -> tuple[float, ...]:
        """Return what the choice of the epoch compares; larger is better, ties go to the loss."""
        return {
            "balanced-accuracy": (self.balanced_accuracy, -self.loss),
            "auroc": (0.0 if self.auroc is None else self.auroc, -self.loss),
            "loss": (-self.loss,),
            "last": (float(epoch),),
            "none": (float(epoch),),
        }[choice]


def anomaly_scores(logits: Tensor) -> Tensor:
    """Return the log-odds of a defect: logsumexp of the defect logits minus the logit of good.

    Args:
        logits: (B, K), `good` first.
    """
    return torch.logsumexp(logits[:, 1:], dim=1) - logits[:, 0]


def validate(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Validation:
    """Score logits (B, K) against true class indices (B,)."""
    logits, labels = logits.double().cpu(), labels.cpu()
    said = classification_metrics(labels.numpy(), logits.argmax(1).numpy(), class_names=classes)
    image = image_metrics(anomaly_scores(logits).numpy(), labels.numpy() > 0)
    return Validation(
        loss=float(F.cross_entropy(logits, labels)),
        accuracy=_number(said.accuracy),
        balanced_accuracy=_number(said.balanced_accuracy),
        auroc=None if isinstance(image.auroc, Undefined) else float(image.auroc),
        confusion=said.confusion,
    )


def _number(value: float | Undefined) -> float:
    # With at least one image, accuracy and mean recall are always defined.
    assert not isinstance(value, Undefined)
    return float(value)

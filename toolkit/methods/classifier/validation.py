"""Figures of the validation part, and what epochs are compared by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from toolkit.methods.classifier.network import anomaly_scores
from toolkit.metrics.classification import classification_metrics
from toolkit.metrics.image import image_metrics
from toolkit.metrics.values import Undefined

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Validation:
    """Figures of the validation part.

    Attributes:
        loss: mean cross-entropy, without weights or smoothing.
        accuracy: share of correct classes.
        balanced_accuracy: mean recall of the classes.
        auroc: of the anomaly score, good against defect; None where one of them is missing.
        confusion: rows are true classes, columns predicted ones.
        scores: anomaly score of each image.
    """

    loss: float
    accuracy: float
    balanced_accuracy: float
    auroc: float | None
    confusion: tuple[tuple[int, ...], ...]
    scores: tuple[float, ...] = field(default=(), repr=False)

    def key(self, monitor: str, epoch: int) -> tuple[float, ...]:
        """Return what epochs are compared by, the largest is the best; the loss comes last."""
        figures = {
            "auroc": (self.auroc or 0.0, self.balanced_accuracy),
            "balanced-accuracy": (self.balanced_accuracy,),
            "loss": (-self.loss,),
        }.get(monitor, (float(epoch),))
        return (*figures, -self.loss)


def validate(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Validation:
    """Compare logits (B, K) with true class indices (B,)."""
    logits, labels = logits.double().cpu(), labels.cpu()
    predicted = logits.argmax(1).numpy()
    found = classification_metrics(labels.numpy(), predicted, class_names=classes)
    scores = anomaly_scores(logits).numpy()
    auroc = image_metrics(scores, labels.numpy() > 0).auroc
    # With at least one image, accuracy and mean recall are defined.
    assert not isinstance(found.accuracy, Undefined)
    assert not isinstance(found.balanced_accuracy, Undefined)
    return Validation(
        loss=float(F.cross_entropy(logits, labels)),
        accuracy=float(found.accuracy),
        balanced_accuracy=float(found.balanced_accuracy),
        auroc=None if isinstance(auroc, Undefined) else float(auroc),
        confusion=found.confusion,
        scores=tuple(scores.tolist()),
    )

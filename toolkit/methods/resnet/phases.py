"""Phases of a training: the head alone, then more layers, then perhaps the head anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.methods.resnet.settings import RETRAINED

if TYPE_CHECKING:
    from toolkit.methods.resnet.settings import ResNetSettings


@dataclass(frozen=True)
class Phase:
    """Some epochs with the same layers learning; the optimiser starts anew with each phase.

    Attributes:
        start, end: first epoch (counted from 0), and the one after the last.
        layers: that learn.
        lr: learning rate at the start.
        augment, mixup: as in the settings.
        retrains: whether it starts from the best model so far, with a new head.
    """

    start: int
    end: int
    layers: str
    lr: float
    augment: str
    mixup: float
    retrains: bool = False

    @property
    def constant_features(self) -> bool:
        """Whether the backbone gives the same features in every epoch."""
        return self.layers == "head" and self.augment == "none" and self.mixup == 0


def phases_of(settings: ResNetSettings) -> list[Phase]:
    """Return the phases that have epochs."""
    head, end = settings.head_epochs, settings.head_epochs + settings.epochs
    again = settings.retrain_epochs if settings.balance in RETRAINED else 0
    layers, lr = settings.train_layers, settings.lr
    phases = [
        Phase(0, head, "head", settings.head_lr, "none", 0.0),
        Phase(head, end, layers, lr, settings.augment, settings.mixup),
        Phase(end, end + again, "head", settings.head_lr, "none", 0.0, retrains=True),
    ]
    return [phase for phase in phases if phase.end > phase.start]


def learning_rate(schedule: str, base: float, progress: float) -> float:
    """Return the learning rate at a point of a phase.

    Args:
        schedule: `constant`, `cosine` (half a wave) or `linear`, the latter two down to 0.
        base: at the start.
        progress: from 0 to 1.
    """
    factor = {
        "constant": 1.0,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "linear": 1 - progress,
    }[schedule]
    return base * factor

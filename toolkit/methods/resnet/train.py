"""Training: frozen first, then unfrozen, chosen by validation, resumable to the same weights.

All randomness of an epoch comes from a generator seeded by the run's seed and the epoch's number,
so an interrupted training goes on as if it had not been.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.errors import ConfigError
from toolkit.methods.resnet import checkpoint
from toolkit.methods.resnet.augment import augmented, mixed
from toolkit.methods.resnet.balance import epoch_order, loss_weights
from toolkit.methods.resnet.evaluate import Validation, validate
from toolkit.progress import progress

if TYPE_CHECKING:
    from toolkit.methods.resnet.network import Classifier
    from toolkit.methods.resnet.settings import ResNetSettings
    from toolkit.runs.run import Run

SAVE_EVERY_SECONDS = 15.0
_SGD_MOMENTUM = 0.9
_EVALUATION_BATCH = 32


@dataclass(frozen=True)
class Part:
    """Images of one part of the split.

    Attributes:
        images: uint8 (n, 3, S, S), RGB.
        labels: int64 (n,), class indices.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Phase:
    """Some epochs with the same layers learning; the optimiser starts anew with each phase.

    Attributes:
        start, end: first epoch (counted from 0), and the one after the last.
        layers: that learn.
        lr: learning rate at the start.
        augment, mixup: as in the settings.
    """

    start: int
    end: int
    layers: str
    lr: float
    augment: str
    mixup: float

    @property
    def constant_features(self) -> bool:
        """Whether the backbone gives the same features in every epoch."""
        return self.layers == "head" and self.augment == "none" and self.mixup == 0


@dataclass
class State:
    """How far a training is: what `last.safetensors` says besides tensors."""

    epochs_done: int = 0
    best_epoch: int = 0
    best_key: tuple[float, ...] = ()
    stopped: bool = False

    @classmethod
    def of(cls, facts: dict[str, Any]) -> State:
        """Read the facts of a checkpoint."""
        return cls(**{**facts, "best_key": tuple(facts["best_key"])})


def phases_of(settings: ResNetSettings) -> list[Phase]:
    """Return the phases that have epochs."""
    head, rest = settings.head_epochs, settings.epochs
    both = [
        Phase(0, head, "head", settings.head_lr, "none", 0.0),
        Phase(
            head, head + rest, settings.train_layers, settings.lr, settings.augment, settings.mixup
        ),
    ]
    return [phase for phase in both if phase.end > phase.start]


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


def normalised(images: Tensor, model: Classifier, device: str) -> Tensor:
    """Normalise float32 (B, 3, S, S) in [0, 1] as the backbone wants it, on the device."""
    mean = torch.tensor(model.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(model.std, device=device).view(1, 3, 1, 1)
    normal: Tensor = (images.to(device) - mean) / std
    return normal


def train(
    model: Classifier,
    *,
    train_part: Part,
    val_part: Part,
    classes: tuple[str, ...],
    settings: ResNetSettings,
    run: Run,
) -> State:
    """Train, and leave `best.safetensors` and `last.safetensors` in `run.weights`.

    Goes on from `last.safetensors` where there is one.

    Raises:
        ConfigError: the loss is no longer finite.
    """
    state, tensors = State(), None
    if (run.weights / checkpoint.LAST).is_file():
        tensors, facts = checkpoint.read_checkpoint(run.weights / checkpoint.LAST)
        state = State.of(facts)
        model.load_state_dict(checkpoint.model_tensors(tensors))
        run.log(f"resumed after epoch {state.epochs_done}")
    model.to(run.device)
    for phase in phases_of(settings):
        if not state.stopped and state.epochs_done < phase.end:
            trainer = _PhaseTrainer(model, phase, train_part, val_part, classes, settings, run)
            if tensors is not None and state.epochs_done > phase.start:
                checkpoint.restore_optimizer(trainer.optimizer, tensors)
            trainer.run_epochs(state)
    return state


class _PhaseTrainer:
    """One phase of a training: model, optimiser and inputs that belong together."""

    def __init__(
        self,
        model: Classifier,
        phase: Phase,
        train_part: Part,
        val_part: Part,
        classes: tuple[str, ...],
        settings: ResNetSettings,
        run: Run,
    ) -> None:
        self.model, self.phase, self.settings, self.run = model, phase, settings, run
        self.train_part, self.val_part, self.classes = train_part, val_part, classes
        parameters = model.learn(phase.layers, batch_norm=settings.batch_norm)
        self.optimizer = make_optimizer(parameters, settings, phase.lr)
        self.learning: nn.Module = model
        self.train_inputs, self.val_inputs = train_part.images, val_part.images
        if phase.constant_features:
            self.learning = model.head
            self.train_inputs = self._features(train_part.images, "features of the frozen layers")
            self.val_inputs = self._features(val_part.images, "features for validation")
        weights = loss_weights(train_part.labels, len(classes), settings.balance)
        self.loss_weights = None if weights is None else weights.to(run.device)

    def run_epochs(self, state: State) -> None:
        """Train the epochs of the phase that are left; `state` is kept up to date."""
        settings, phase, run = self.settings, self.phase, self.run
        best: dict[str, Tensor] | None = None
        best_facts: dict[str, Any] = {}
        saved = time.monotonic()
        title = f"training ({phase.layers})"
        with progress(title, phase.end - state.epochs_done) as bar:
            while state.epochs_done < phase.end and not state.stopped:
                epoch = state.epochs_done + 1
                started = time.perf_counter()
                lr, loss, accuracy = self._train_epoch(epoch)
                found = self._validate()
                run.add_result(
                    {
                        "epoch": epoch,
                        "lr": lr,
                        "train_loss": loss,
                        "train_accuracy": accuracy,
                        "val_loss": found.loss,
                        "val_accuracy": found.accuracy,
                        "val_balanced_accuracy": found.balanced_accuracy,
                        "val_auroc": "" if found.auroc is None else found.auroc,
                        "seconds": round(time.perf_counter() - started, 4),
                    }
                )
                key = found.key(settings.choose, epoch)
                if not state.best_key or key > state.best_key:
                    state.best_key, state.best_epoch = key, epoch
                    best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
                    best_facts = {"epoch": epoch, **vars(found)}
                state.epochs_done = epoch
                state.stopped = 0 < settings.patience <= epoch - state.best_epoch
                if state.stopped:
                    run.log(f"stopped after epoch {epoch}: none better since {state.best_epoch}")
                last = state.stopped or epoch == phase.end
                if last or time.monotonic() - saved >= SAVE_EVERY_SECONDS:
                    if best is not None:
                        path = run.weights / checkpoint.BEST
                        checkpoint.write_checkpoint(path, best, best_facts)
                        best = None
                    self._save_last(state)
                    saved = time.monotonic()
                bar.advance(loss=loss, val_loss=found.loss, val_acc=found.balanced_accuracy)

    def _train_epoch(self, epoch: int) -> tuple[float, float, float]:
        """Train one epoch; return its first learning rate, mean loss and accuracy."""
        settings, phase = self.settings, self.phase
        labels, classes = self.train_part.labels, len(self.classes)
        seed = (self.run.seed * 1_000_003 + epoch) % 2**63
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout inside the network has no generator of its own
        self.model.learn(phase.layers, batch_norm=settings.batch_norm)
        order = epoch_order(
            labels, classes, settings.balance, generator, count=settings.epoch_images
        )
        batches = batches_of(order, settings.batch)
        loss_sum, right = 0.0, 0
        for step, chosen in enumerate(batches):
            done = (epoch - 1 - phase.start + step / len(batches)) / (phase.end - phase.start)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(settings.schedule, phase.lr, done)
            inputs = self.train_inputs[chosen]
            targets = F.one_hot(labels[chosen], classes).float()
            if not phase.constant_features:
                inputs = augmented(inputs.float() / 255, phase.augment, generator)
                inputs, targets = mixed(inputs, targets, phase.mixup, generator)
                inputs = normalised(inputs, self.model, self.run.device)
            logits = self.learning(inputs)
            loss = F.cross_entropy(
                logits,
                targets.to(logits.device),
                weight=self.loss_weights,
                label_smoothing=settings.label_smoothing,
            )
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ConfigError(
                    f"{self.run.path}: the loss is {value} in epoch {epoch}; start again with a "
                    f"lower learning rate (here {phase.lr:g})"
                )
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self.optimizer.step()
            loss_sum += value * len(chosen)
            right += int((logits.detach().argmax(1).cpu() == labels[chosen]).sum())
        first = learning_rate(
            settings.schedule, phase.lr, (epoch - 1 - phase.start) / (phase.end - phase.start)
        )
        return first, loss_sum / len(order), right / len(order)

    def _validate(self) -> Validation:
        self.model.eval()
        with torch.no_grad():
            logits = torch.cat(
                [
                    self.learning(
                        batch
                        if self.phase.constant_features
                        else normalised(batch.float() / 255, self.model, self.run.device)
                    )
                    for batch in torch.split(self.val_inputs, _EVALUATION_BATCH)
                ]
            )
        return validate(logits, self.val_part.labels, self.classes)

    def _features(self, images: Tensor, title: str) -> Tensor:
        """Return float32 (n, F) features of uint8 (n, 3, S, S) images, on the device."""
        self.model.eval()
        features = []
        with torch.no_grad(), progress(title, len(images)) as bar:
            for batch in torch.split(images, _EVALUATION_BATCH):
                inputs = normalised(batch.float() / 255, self.model, self.run.device)
                features.append(self.model.backbone(inputs))
                bar.advance(len(batch))
        return torch.cat(features)

    def _save_last(self, state: State) -> None:
        tensors = {**self.model.state_dict(), **checkpoint.optimizer_tensors(self.optimizer)}
        checkpoint.write_checkpoint(self.run.weights / checkpoint.LAST, tensors, vars(state))


def make_optimizer(
    parameters: list[nn.Parameter], settings: ResNetSettings, lr: float
) -> torch.optim.Optimizer:
    """Make the optimiser that the settings name."""
    decay = settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=_SGD_MOMENTUM, weight_decay=decay)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, weight_decay=decay)


def batches_of(order: Tensor, size: int) -> list[Tensor]:
    """Cut an order into batches; a last batch of one image joins the one before.

    Batch normalisation cannot learn from one value per channel.
    """
    batches = list(torch.split(order, size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches

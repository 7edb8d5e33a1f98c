"""Training: frozen first, then unfrozen, chosen by validation, resumable to the same weights.

All randomness of an epoch comes from a generator seeded by the run's seed and the epoch's number,
so an interrupted training goes on as if it had not been.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.errors import ConfigError
from toolkit.imbalance.smote import balanced_by_smote
from toolkit.methods.resnet import checkpoint
from toolkit.methods.resnet.augment import augmented, mixed
from toolkit.methods.resnet.evaluate import Validation, validate
from toolkit.methods.resnet.frozen import Part, averaged_logits, frozen_features, normalised
from toolkit.methods.resnet.objective import Objective
from toolkit.methods.resnet.phases import Phase, learning_rate, phases_of
from toolkit.methods.resnet.pooling import Standardise
from toolkit.progress import progress
from toolkit.runs.environment import computes_bfloat16

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from toolkit.methods.resnet.network import Classifier
    from toolkit.methods.resnet.settings import ResNetSettings
    from toolkit.runs.run import Run

SAVE_EVERY_SECONDS = 15.0
_SGD_MOMENTUM = 0.9
_EVALUATION_BATCH = 32


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
        if phase.retrains and state.epochs_done <= phase.start:
            _start_again(model, state, phase, run)
        if not state.stopped and state.epochs_done < phase.end:
            trainer = _PhaseTrainer(model, phase, train_part, val_part, classes, settings, run)
            if tensors is not None and state.epochs_done > phase.start:
                checkpoint.restore_optimizer(trainer.optimizer, tensors)
            trainer.run_epochs(state)
            tensors = None
    return state


def _start_again(model: Classifier, state: State, phase: Phase, run: Run) -> None:
    """Take the best backbone so far, a new head, and forget how good the old one was."""
    tensors, facts = checkpoint.read_checkpoint(run.weights / checkpoint.BEST)
    model.load_state_dict(tensors)
    torch.manual_seed(run.seed)
    model.head.reset_parameters()
    # Patience may have ended the phase before early.
    state.epochs_done, state.stopped = phase.start, False
    state.best_epoch, state.best_key = phase.start, ()
    run.log(f"a new head on the features of epoch {facts['epoch']}")


class _PhaseTrainer:
    """The epochs of one phase, with the optimiser and the inputs that belong to it."""

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
        self.val_part, self.classes = val_part, classes
        self.inputs, self.labels = train_part.images, train_part.labels
        self.val_inputs = val_part.images
        standardise = model.standardise
        unmeasured = isinstance(standardise, Standardise) and not bool(standardise.measured)
        if phase.constant_features or unmeasured:
            # What this run has trained, or drawn at random, is of no use to another.
            own = phase.retrains or run.metadata.get("weights", "none") == "none"
            name = "" if own else settings.network
            features = self._features(train_part, name, "features of the frozen layers")
            if isinstance(standardise, Standardise) and unmeasured:
                standardise.measure(features.flatten(0, 1))
            if phase.constant_features:
                self.inputs = features.flatten(0, 1)
                self.labels = train_part.labels.repeat(settings.views)
                self.val_inputs = self._features(val_part, name, "features for validation")
        if phase.retrains and settings.balance == "smote":
            self.inputs, self.labels = balanced_by_smote(
                self.inputs,
                self.labels,
                len(classes),
                neighbours=settings.smote_neighbours,
                generator=torch.Generator().manual_seed(run.seed),
            )
        self.objective = Objective(settings, self.labels, len(classes))
        self.halves = settings.precision == "bfloat16" or (
            settings.precision == "auto" and computes_bfloat16(torch.device(run.device))
        )
        if self.halves:
            model.to(memory_format=torch.channels_last)
        model.learn(phase.layers, batch_norm=settings.batch_norm)
        self.optimizer = make_optimizer(model, settings, phase.lr)

    def run_epochs(self, state: State) -> None:
        """Train the epochs of the phase that are left; `state` is kept up to date."""
        settings, phase, run = self.settings, self.phase, self.run
        best: dict[str, Tensor] | None = None
        best_facts: dict[str, Any] = {}
        shown: dict[str, float] = {}
        saved = time.monotonic()
        title = f"training ({phase.layers})"
        with progress(title, phase.end - state.epochs_done) as bar:
            while state.epochs_done < phase.end and not state.stopped:
                epoch = state.epochs_done + 1
                started = time.perf_counter()
                lr, loss, accuracy = self._train_epoch(epoch)
                row: dict[str, float | str] = {
                    "epoch": epoch,
                    "lr": lr,
                    "train_loss": loss,
                    "train_accuracy": accuracy,
                }
                validates = epoch % settings.validate_every == 0 or epoch == phase.end
                better = False
                if validates:
                    found = self._validate()
                    row |= _columns(found)
                    key = found.key(settings.choose, epoch)
                    better = not state.best_key or key > state.best_key
                    shown = {"val_loss": found.loss, "val_acc": found.balanced_accuracy}
                if better:
                    state.best_key, state.best_epoch = key, epoch
                    best_facts = {"epoch": epoch, **vars(found)}
                row["seconds"] = round(time.perf_counter() - started, 4)
                run.add_result(row)
                state.epochs_done = epoch
                state.stopped = 0 < settings.patience <= epoch - state.best_epoch
                if state.stopped:
                    run.log(f"stopped after epoch {epoch}: none better since {state.best_epoch}")
                last = state.stopped or epoch == phase.end
                saves = last or time.monotonic() - saved >= SAVE_EVERY_SECONDS
                if better and (saves or settings.choose not in ("last", "none")):
                    best = self._model_in_use()  # where the next is better anyway, only to save it
                if saves:
                    if best is not None:
                        path = run.weights / checkpoint.BEST
                        checkpoint.write_checkpoint(path, best, best_facts)
                        best = None
                    self._save_last(state, ended=last)
                    saved = time.monotonic()
                bar.advance(loss=loss, **shown)

    def _train_epoch(self, epoch: int) -> tuple[float, float, float]:
        """Train one epoch; return its first learning rate, mean loss and accuracy."""
        settings, phase = self.settings, self.phase
        seed = (self.run.seed * 1_000_003 + epoch) % 2**63
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout inside the network has no generator of its own
        self.model.learn(phase.layers, batch_norm=settings.batch_norm)
        order = self.objective.order(generator, retrains=phase.retrains)
        batches = batches_of(order, settings.batch)
        loss_sum, right = 0.0, 0
        for step, chosen in enumerate(batches):
            done = (epoch - 1 - phase.start + step / len(batches)) / (phase.end - phase.start)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(settings.schedule, phase.lr, done)
            targets = F.one_hot(self.labels[chosen], len(self.classes)).float()
            logits, targets = self._forward(chosen, targets, generator)
            loss = self.objective.loss(logits, targets.to(logits.device))
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
            right += int((logits.detach().argmax(1).cpu() == self.labels[chosen]).sum())
        first = learning_rate(
            settings.schedule, phase.lr, (epoch - 1 - phase.start) / (phase.end - phase.start)
        )
        return first, loss_sum / len(order), right / len(order)

    def _forward(
        self, chosen: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return float32 logits and the targets that belong to them."""
        inputs = self.inputs[chosen]
        if self.phase.constant_features:
            return self.model.classify(inputs), targets
        inputs = augmented(inputs.float() / 255, self.phase.augment, generator)
        inputs, targets = mixed(inputs, targets, self.phase.mixup, generator)
        inputs = normalised(inputs, self.model, self.run.device)
        if self.halves:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with self._precision():
            logits = self.model(inputs)
        return logits.float(), targets

    def _clean_batches(self) -> Iterator[Tensor]:
        """Yield all training images as they are, normalised."""
        for batch in torch.split(self.inputs, _EVALUATION_BATCH):
            images = normalised(batch.float() / 255, self.model, self.run.device)
            layout = torch.channels_last if self.halves else torch.contiguous_format
            yield images.contiguous(memory_format=layout)

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.halves:
            return nullcontext()
        return torch.autocast(torch.device(self.run.device).type, dtype=torch.bfloat16)

    def _validate(self) -> Validation:
        """Score the model as it would be used: all views, in full precision."""
        if self.settings.batch_norm == "measured" and self.phase.layers != "head":
            with torch.no_grad(), self._precision():
                measure_batch_norm(self.model, self._clean_batches())
        self.model.eval()
        views = self.settings.views
        with torch.no_grad():
            if self.phase.constant_features:
                logits = torch.stack([self.model.classify(one) for one in self.val_inputs]).mean(0)
            else:
                batches = torch.split(self.val_inputs, _EVALUATION_BATCH)
                logits = torch.cat(
                    [averaged_logits(self.model, b, views, self.run.device) for b in batches]
                )
        shift = self.objective.logit_shift()
        if shift is not None:
            logits = logits + shift.to(logits)
        return validate(logits, self.val_part.labels, self.classes)

    def _features(self, part: Part, name: str, title: str) -> Tensor:
        return frozen_features(
            self.model,
            part,
            views=self.settings.views,
            device=self.run.device,
            name=name,
            title=title,
        )

    def _model_in_use(self) -> dict[str, Tensor]:
        """Copy the model's tensors; a shift of the logits goes into the bias of the head."""
        tensors = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        shift = self.objective.logit_shift()
        if shift is not None:
            tensors["head.bias"] += shift.to(tensors["head.bias"])
        return tensors

    def _save_last(self, state: State, *, ended: bool) -> None:
        # The next phase has an optimiser of its own.
        optimizer = {} if ended else checkpoint.optimizer_tensors(self.optimizer)
        tensors = {**self.model.state_dict(), **optimizer}
        checkpoint.write_checkpoint(self.run.weights / checkpoint.LAST, tensors, vars(state))


def _columns(found: Validation) -> dict[str, float | str]:
    """Return the columns of `results.csv` that a validation fills."""
    return {
        "val_loss": found.loss,
        "val_accuracy": found.accuracy,
        "val_balanced_accuracy": found.balanced_accuracy,
        "val_auroc": "" if found.auroc is None else found.auroc,
    }


def make_optimizer(model: Classifier, settings: ResNetSettings, lr: float) -> torch.optim.Optimizer:
    """Make the optimiser that the settings name, for the parameters that learn.

    The bias of the head never decays: it holds how frequent the classes are.
    """
    learning = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learning if p is not model.head.bias]},
        {"params": [model.head.bias], "weight_decay": 0.0},
    ]
    decay = settings.weight_decay
    # One pass over each tensor instead of several: a third of an epoch of small images.
    fused = learning[0].device.type in ("cpu", "cuda")
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=lr, momentum=_SGD_MOMENTUM, weight_decay=decay, fused=fused
        )
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=lr, weight_decay=decay, fused=fused)


def measure_batch_norm(model: Classifier, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of batch normalisation by means over all images.

    Precise batch normalisation (Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section
    3): with a few steps per epoch a running mean belongs to weights that are no more.

    Args:
        model: its batch normalisations that learn are changed in place.
        batches: normalised images (B, 3, S, S).
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    learning = [m for m in norms if m.training]
    momenta = [m.momentum for m in learning]
    for norm in learning:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    for batch in batches:
        model.backbone(batch)
    for norm, momentum in zip(learning, momenta, strict=True):
        norm.momentum = momentum


def batches_of(order: Tensor, size: int) -> list[Tensor]:
    """Cut an order into batches; a last batch of one image joins the one before.

    Batch normalisation cannot learn from one value per channel.
    """
    batches = list(torch.split(order, size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches

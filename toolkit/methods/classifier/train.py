"""Training: the head, then more layers; validation chooses the epoch; resumable.

All randomness of an epoch comes from generators that are seeded by the run's seed and the number of
the epoch, so an interrupted training continues to the same weights.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.d4 import ALL
from toolkit.data.dataset_cards import UNKNOWN, Symmetry
from toolkit.errors import ConfigError
from toolkit.imbalance.sampling import balanced_by_smote
from toolkit.methods.classifier import checkpoint
from toolkit.methods.classifier.augment import augment
from toolkit.methods.classifier.data import ImageSet, frozen_features
from toolkit.methods.classifier.network import Standardize, tta_transforms
from toolkit.methods.classifier.phases import (
    Objective,
    Phase,
    learning_rate,
    make_optimizer,
    phases_of,
)
from toolkit.methods.classifier.validation import Validation, validate
from toolkit.metrics.bootstrap import Interval, image_difference_intervals
from toolkit.progress import progress
from toolkit.runs.environment import computes_bfloat16

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from toolkit.methods.classifier.checkpoint import ModelInfo
    from toolkit.methods.classifier.network import ClassificationNetwork
    from toolkit.methods.classifier.settings import ClassifierSettings
    from toolkit.runs.run import Run

SAVE_EVERY_SECONDS = 15.0
_EVALUATION_BATCH = 32


@dataclass
class State:
    """How far a training is; part of `last.pt`."""

    epochs_done: int = 0
    best_epoch: int = 0
    best_key: tuple[float, ...] = ()
    best_scores: tuple[float, ...] = ()
    stopped: bool = False


def train(
    model: ClassificationNetwork,
    info: ModelInfo,
    *,
    train_images: ImageSet,
    val_images: ImageSet,
    settings: ClassifierSettings,
    run: Run,
    symmetry: Symmetry = UNKNOWN,
) -> State:
    """Train, and leave `best.safetensors` and `last.pt` in `run.weights`.

    Continues from `last.pt` where there is one. `symmetry` is what augmentation may do.

    Raises:
        ConfigError: the loss is no longer finite.
    """
    state, optimizer = State(), None
    if (run.weights / checkpoint.LAST).is_file():
        last = checkpoint.read_last(run.weights / checkpoint.LAST)
        state, optimizer = State(**last["state"]), last["optimizer"]
        model.load_state_dict(last["model"])
        run.log(f"resumed after epoch {state.epochs_done}")
    model.to(run.device)
    for phase in phases_of(settings):
        if phase.retrains and state.epochs_done <= phase.start:
            _new_head(model, state, phase, run)
        if not state.stopped and state.epochs_done < phase.end:
            trainer = _PhaseTrainer(
                model, info, phase, train_images, val_images, settings, run, symmetry
            )
            if optimizer is not None and state.epochs_done > phase.start:
                trainer.optimizer.load_state_dict(optimizer)
            trainer.run_epochs(state)
            optimizer = None
    return state


def _new_head(model: ClassificationNetwork, state: State, phase: Phase, run: Run) -> None:
    """Take the best backbone so far and a new head, which competes with no older one."""
    tensors, info = checkpoint.read_best(run.weights / checkpoint.BEST)
    model.load_state_dict(tensors)
    torch.manual_seed(run.seed)
    model.head.reset_parameters()
    # Patience may have ended the phase before early.
    state.epochs_done, state.stopped = phase.start, False
    state.best_epoch, state.best_key, state.best_scores = phase.start, (), ()
    run.log(f"a new head on the features of epoch {info.validation['epoch']}")


class _PhaseTrainer:
    """The epochs of one phase, with its optimizer and its inputs."""

    def __init__(
        self,
        model: ClassificationNetwork,
        info: ModelInfo,
        phase: Phase,
        train_images: ImageSet,
        val_images: ImageSet,
        settings: ClassifierSettings,
        run: Run,
        symmetry: Symmetry,
    ) -> None:
        self.model, self.info, self.phase = model, info, phase
        self.settings, self.run, self.symmetry = settings, run, symmetry
        self.tta = tta_transforms(settings.tta)
        self.inputs, self.labels = train_images.images, train_images.labels
        self.val_inputs, self.val_labels = val_images.images, val_images.labels
        standardize = model.standardize
        unmeasured = isinstance(standardize, Standardize) and not bool(standardize.measured)
        if phase.constant_features or unmeasured:
            # A backbone that this run has trained, or drawn at random, is of no use to another.
            own = phase.retrains or run.metadata.get("weights", "none") == "none"
            network = "" if own else settings.network
            transforms = ALL[: settings.augmentations]
            features = frozen_features(
                model, train_images, transforms=transforms, network=network, title="features"
            )
            if isinstance(standardize, Standardize) and unmeasured:
                standardize.measure(features.flatten(0, 1))
            if phase.constant_features:
                self.inputs = features.flatten(0, 1)
                self.labels = train_images.labels.repeat(len(transforms))
                self.val_inputs = frozen_features(
                    model,
                    val_images,
                    transforms=self.tta,
                    network=network,
                    title="validation features",
                )
        if phase.retrains and settings.imbalance == "smote":
            self.inputs, self.labels = balanced_by_smote(
                self.inputs,
                self.labels,
                len(info.classes),
                num_neighbors=settings.smote_num_neighbors,
                generator=torch.Generator().manual_seed(run.seed),
            )
        self.objective = Objective(settings, self.labels, len(info.classes), phase)
        self.bfloat16 = settings.precision == "bfloat16" or (
            settings.precision == "auto" and computes_bfloat16(torch.device(run.device))
        )
        self.layout = torch.channels_last if self.bfloat16 else torch.contiguous_format
        if self.bfloat16:
            model.to(memory_format=torch.channels_last)
        model.set_trainable(phase.layers, batch_norm=settings.batch_norm)
        self.optimizer = make_optimizer(model, settings, phase)

    def run_epochs(self, state: State) -> None:
        """Train the remaining epochs of the phase; `state` is kept up to date."""
        settings, phase, run = self.settings, self.phase, self.run
        best: tuple[dict[str, Tensor], ModelInfo] | None = None
        figures: dict[str, float] = {}
        saved = time.monotonic()
        title = f"training ({phase.layers})"
        with progress(title, phase.end - state.epochs_done) as bar:
            while state.epochs_done < phase.end and not state.stopped:
                epoch = state.epochs_done + 1
                started = time.perf_counter()
                row = self._train_epoch(epoch)
                if epoch % settings.validate_every == 0 or epoch == phase.end:
                    found = self._validate()
                    row |= _columns(found)
                    figures = {"val_loss": found.loss, "val_acc": found.balanced_accuracy}
                    key = found.key(settings.monitor, epoch)
                    if self._is_better(key, found, state):
                        state.best_key, state.best_epoch = key, epoch
                        state.best_scores = found.scores
                        validation = {"epoch": epoch, **vars(found)}
                        del validation["scores"]
                        best = self._model_in_use(), replace(self.info, validation=validation)
                row["seconds"] = round(time.perf_counter() - started, 4)
                run.add_result(row)
                state.epochs_done = epoch
                state.stopped = 0 < settings.patience <= epoch - state.best_epoch
                if state.stopped:
                    run.log(f"stopped after epoch {epoch}: none better since {state.best_epoch}")
                last = state.stopped or epoch == phase.end
                if last or time.monotonic() - saved >= SAVE_EVERY_SECONDS:
                    if best is not None:
                        checkpoint.write_best(run.weights / checkpoint.BEST, *best)
                        best = None
                    self._save_last(state, ended=last)
                    saved = time.monotonic()
                bar.advance(loss=float(row["train_loss"]), **figures)

    def _is_better(self, key: tuple[float, ...], found: Validation, state: State) -> bool:
        # A head that is fitted to the end is not chosen by the noise of a few images.
        if self.phase.convex or not state.best_key:
            return True
        if state.best_epoch > self.phase.start:
            return key > state.best_key
        # More trained layers must earn it by the figures; a lower loss is mere confidence.
        if key[:-1] <= state.best_key[:-1]:
            return False
        if self.settings.monitor != "auroc":
            return True
        # The best of many epochs on a few images is above the head by chance alone.
        truth = self.val_labels.numpy() > 0
        gain = image_difference_intervals(found.scores, state.best_scores, truth)["auroc"]
        return isinstance(gain, Interval) and gain.low > 0

    def _train_epoch(self, epoch: int) -> dict[str, float | int | str]:
        """Train one epoch; return its number, first learning rate, mean loss and accuracy."""
        settings, phase = self.settings, self.phase
        seed = (self.run.seed * 1_000_003 + epoch) % 2**63
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # for dropout and mixup
        self.model.set_trainable(phase.layers, batch_norm=settings.batch_norm)
        order = self.objective.order(generator)
        batches = [order] if phase.convex else batches_of(order, settings.batch)
        rates, loss_sum, right = [], 0.0, 0
        for step, chosen in enumerate(batches):
            done = (epoch - 1 - phase.start + step / len(batches)) / (phase.end - phase.start)
            schedule = "constant" if phase.convex else settings.schedule
            rates.append(learning_rate(schedule, phase.lr, done))
            for group in self.optimizer.param_groups:
                group["lr"] = rates[-1]
            value, logits = self._step(chosen, generator)
            if not math.isfinite(value):
                raise ConfigError(
                    f"{self.run.path}: the loss is {value} in epoch {epoch}; start again with a "
                    f"lower learning rate (here {phase.lr:g})"
                )
            loss_sum += value * len(chosen)
            right += int((logits.argmax(1).cpu() == self.labels[chosen]).sum())
        return {
            "epoch": epoch,
            "lr": rates[0],
            "train_loss": loss_sum / len(order),
            "train_accuracy": right / len(order),
        }

    def _step(self, chosen: Tensor, generator: torch.Generator) -> tuple[float, Tensor]:
        """Make one step of the optimizer; return the loss before it, and the last logits."""
        seen: list[Tensor] = []

        def compute() -> Any:  # several times in a step of L-BFGS
            self.optimizer.zero_grad(set_to_none=True)
            logits, targets = self._forward(chosen, generator)
            loss = self.objective.loss(logits, targets.to(logits.device))
            if self.phase.convex:
                # As scikit-learn weighs it, whose loss is a sum over the images.
                strength = 2 * len(chosen) * self.settings.head_c
                loss = loss + self.model.head.weight.square().sum() / strength
            torch.autograd.backward(loss)
            seen[:] = [logits.detach()]
            return loss.detach()

        return float(self.optimizer.step(compute)), seen[0]

    def _forward(self, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return float32 logits and their targets, one row of class shares per image."""
        inputs = self.inputs[chosen]
        targets = F.one_hot(self.labels[chosen], len(self.info.classes)).float()
        if self.phase.constant_features:
            return self.model.classify(inputs), targets
        inputs = augment(
            inputs.float() / 255,
            self.phase.augmentation_strength,
            generator,
            symmetry=self.symmetry,
        )
        if self.phase.mixup:
            from torchvision.transforms.v2 import MixUp

            inputs, targets = MixUp(alpha=self.phase.mixup)(inputs, targets)
        inputs = self.model.normalize(inputs).contiguous(memory_format=self.layout)
        with self._precision():
            logits = self.model(inputs)
        return logits.float(), targets

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.bfloat16:
            return nullcontext()
        return torch.autocast(torch.device(self.run.device).type, dtype=torch.bfloat16)

    def _clean_batches(self) -> Iterator[Tensor]:
        """Yield all training images without augmentation, normalized."""
        for batch in torch.split(self.inputs, _EVALUATION_BATCH):
            images = self.model.normalize(batch.float() / 255)
            yield images.contiguous(memory_format=self.layout)

    def _validate(self) -> Validation:
        """Compute the figures of the model as it predicts: with its TTA, in float32."""
        model = self.model
        with torch.no_grad():
            if self.settings.batch_norm == "recalibrated" and self.phase.layers != "head":
                with self._precision():
                    recalibrate_batch_norm(model, self._clean_batches())
            model.eval()
            if self.phase.constant_features:
                logits = torch.stack([model.classify(one) for one in self.val_inputs]).mean(0)
            else:
                batches = torch.split(self.val_inputs, _EVALUATION_BATCH)
                logits = torch.cat([model.tta_logits(b.float() / 255, self.tta) for b in batches])
        shift = self.objective.logit_shift()
        if shift is not None:
            logits = logits + shift.to(logits)
        return validate(logits, self.val_labels, self.info.classes)

    def _model_in_use(self) -> dict[str, Tensor]:
        """Copy the model's tensors; a shift of the logits goes into the bias of the head."""
        tensors = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        shift = self.objective.logit_shift()
        if shift is not None:
            tensors["head.bias"] += shift.to(tensors["head.bias"])
        return tensors

    def _save_last(self, state: State, *, ended: bool) -> None:
        content = {
            "state": vars(state),
            "model": self.model.state_dict(),
            # The next phase has an optimizer of its own.
            "optimizer": None if ended else self.optimizer.state_dict(),
        }
        checkpoint.write_last(self.run.weights / checkpoint.LAST, content)


def _columns(found: Validation) -> dict[str, float | int | str]:
    """Return the columns of `results.csv` that a validation fills."""
    return {
        "val_loss": found.loss,
        "val_accuracy": found.accuracy,
        "val_balanced_accuracy": found.balanced_accuracy,
        "val_auroc": "" if found.auroc is None else found.auroc,
    }


def recalibrate_batch_norm(model: ClassificationNetwork, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of batch norm by means over all images.

    Precise batch norm (Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3): with a
    few steps per epoch a running mean belongs to weights of many steps ago. Unlike
    `torch.optim.swa_utils.update_bn` it leaves frozen layers alone, and dropout off.

    Args:
        model: its batch norms that are trained are changed in place.
        batches: normalized images (B, 3, S, S).
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    trained = [(norm, norm.momentum) for norm in norms if norm.training]
    for norm, _ in trained:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    for batch in batches:
        model.backbone(batch)
    for norm, momentum in trained:
        norm.momentum = momentum


def batches_of(order: Tensor, size: int) -> list[Tensor]:
    """Cut an order into batches; a last batch of one image joins the one before.

    Batch norm cannot learn from one value per channel.
    """
    batches = list(torch.split(order, size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches

"""Training of the mask decoder on cached embeddings: SAM's interactive recipe, in batches."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from toolkit.data.types import Sample
from toolkit.errors import RunError
from toolkit.files import atomic_write
from toolkit.methods.sam.embeddings import Embeddings, LiveEmbeddings
from toolkit.methods.sam.evaluate import mean_iou
from toolkit.methods.sam.lora import LoraLinear, lora_layers
from toolkit.methods.sam.model import copy_decoder, load_tuned, save_tuned, trained_modules
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.step import Kept, Work, coarse_batch, take_step, whole_batch
from toolkit.methods.sam.targets import Target, good_targets
from toolkit.methods.sam.workers import worker_count, workers
from toolkit.progress import progress
from toolkit.runs.environment import computes_bfloat16
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

BEST, LAST = "decoder.safetensors", "last.pt"
_GRADIENT_NORM = 1.0
_FUSED = ("cpu", "cuda")
"""Where AdamW updates all parameters in one call, which takes a tenth of the time."""


@dataclass(frozen=True)
class Material:
    """What is learnt from.

    Attributes:
        targets: training regions in all frames.
        good: good training samples, for places without a defect.
        val: validation regions, of whole images and of windows.
    """

    targets: Sequence[Target]
    good: Sequence[Sample]
    val: Sequence[Target]


def train(sam: Sam, cache: Embeddings, data: Material, settings: SamSettings, run: Run) -> None:
    """Fine-tune the decoder and leave the best weights in the run, and in `sam`.

    Most epochs see embeddings and masks at half the resolution: a step then costs a quarter, and
    what is learnt there (which parts of an image are meant) holds at SAM's own resolution, where
    the last epochs and all validation are done.

    The kept weights are a moving average of the trained ones; the epoch is chosen by the mean of
    box and click IoU over `val`. Epoch 0 is the untouched model: if nothing beats it, it is kept.
    An interrupted training goes on after its last whole epoch, to the same result.

    Args:
        sam: the model; changed in place.
        cache: embeddings of every sample that occurs; not used where the encoder learns too.
        data: regions and places.
        settings: of the method.
        run: receives `results.csv`, the checkpoints, and the log.

    Raises:
        RunError: the loss is no longer a number; the best weights so far are kept.
    """
    # An encoder in the step takes most of the time, and all threads.
    count = 1 if lora_layers(sam) else worker_count(sam.device)
    with workers(count) as pool:
        _train(sam, cache, data, settings, run, pool, count)
    load_tuned(sam, run.weights / BEST)


def _train(
    sam: Sam,
    cache: Embeddings,
    data: Material,
    settings: SamSettings,
    run: Run,
    pool: Executor,
    count: int,
) -> None:
    steps = _steps(data, settings)
    state = _State(sam, settings, steps=steps)
    work = Work(sam, state.parameters, state.bfloat16, pool, count)
    seen = LiveEmbeddings(state.average) if lora_layers(sam) else cache
    cache = LiveEmbeddings(sam) if lora_layers(sam) else cache
    best_path, last_path = run.weights / BEST, run.weights / LAST

    def validate(**row: float) -> float:
        return _validate(state.average, seen, data.val, run, pool, epoch=state.epoch, **row)

    if last_path.is_file() and best_path.is_file():
        state.load(last_path)
        run.log(f"resumed after epoch {state.epoch}")
    else:
        state.best = validate()
        save_tuned(state.average, best_path)
    with progress("fine-tune sam", steps * settings.epochs) as bar:
        bar.advance(state.epoch * steps)
        while state.epoch < settings.epochs and state.stale < settings.patience:
            started = time.perf_counter()
            rng = np.random.default_rng([run.seed, state.epoch])
            chosen = _epoch_targets(data, settings, rng)
            losses: list[float] = []
            ious: list[float] = []
            for start in range(0, len(chosen), settings.batch):
                batch = chosen[start : start + settings.batch]
                loss, iou = _step(state, work, cache, batch, settings, rng)
                if not math.isfinite(loss):
                    raise RunError(
                        f"{run.path}: the loss is {loss} in epoch {state.epoch + 1}, step "
                        f"{len(losses) + 1} ({', '.join(t.sample.id for t in batch)}); the best "
                        "weights so far are kept; lower --lr"
                    )
                losses.append(loss)
                ious.append(iou)
                bar.advance(loss=loss, iou=float(np.nanmean(ious)))
            state.epoch += 1
            row = {
                "train_loss": float(np.mean(losses)),
                "train_iou": float(np.nanmean(ious)),
                "lr": float(state.schedule.get_last_lr()[0]),
                "seconds": time.perf_counter() - started,
            }
            if state.epoch % settings.validate_every and state.epoch < settings.epochs:
                run.add_result({"epoch": state.epoch, **row})
            else:
                score = validate(**row)
                state.stale += 1
                if score > state.best:
                    state.best, state.stale = score, 0
                    save_tuned(state.average, best_path)
            state.save(last_path)


class _State:
    """Everything that changes during training, and its checkpoint."""

    def __init__(self, sam: Sam, settings: SamSettings, *, steps: int) -> None:
        self.sam, self.average = sam, copy_decoder(sam)
        self.modules = trained_modules(sam, settings.train)
        self.average_modules = trained_modules(self.average, settings.train)
        for layer in [sam.mask_decoder, sam.prompt_encoder]:
            layer.requires_grad_(layer in self.modules)
        self.parameters = [p for m in self.modules for p in _learning(m)]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            fused=sam.device.type in _FUSED,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=settings.lr, total_steps=steps * max(settings.epochs, 1) + 1
        )
        self.decay = settings.ema
        self.bfloat16 = settings.precision == "bfloat16" or (
            settings.precision == "auto" and computes_bfloat16(sam.device)
        )
        self.updates = self.epoch = self.stale = 0
        self.best = -math.inf
        self.kept: Kept = {}

    def apply(self) -> None:
        """Take one optimiser step and follow it with the moving average."""
        torch.nn.utils.clip_grad_norm_(self.parameters, _GRADIENT_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        # Short at first, so that the average does not drag the untrained weights along.
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            for ours, theirs in zip(self.average_modules, self.modules, strict=True):
                for mean, now in zip(_learning(ours), _learning(theirs), strict=True):
                    mean.lerp_(now, 1 - decay)

    def save(self, path: Path) -> None:
        record = {
            "modules": [m.state_dict() for m in self.modules],
            "average": [m.state_dict() for m in self.average_modules],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "numbers": [self.updates, self.epoch, self.stale],
            "best": self.best,
        }
        with atomic_write(path) as temporary:
            torch.save(record, temporary)

    def load(self, path: Path) -> None:
        record = torch.load(path, weights_only=True, map_location=self.sam.device)
        for module, tensors in zip(self.modules, record["modules"], strict=True):
            module.load_state_dict(tensors)
        for module, tensors in zip(self.average_modules, record["average"], strict=True):
            module.load_state_dict(tensors)
        self.optimizer.load_state_dict(record["optimizer"])
        self.schedule.load_state_dict(record["schedule"])
        self.updates, self.epoch, self.stale = record["numbers"]
        self.best = record["best"]


def _learning(module: nn.Module) -> list[nn.Parameter]:
    """Return a module's parameters without those that stay as they are."""
    frozen = module.linear.parameters() if isinstance(module, LoraLinear) else ()
    kept = {id(p) for p in frozen}
    return [p for p in module.parameters() if id(p) not in kept]


def _steps(data: Material, settings: SamSettings) -> int:
    return math.ceil((len(data.targets) + settings.negatives) / settings.batch)


def _epoch_targets(data: Material, settings: SamSettings, rng: np.random.Generator) -> list[Target]:
    """Shuffle the targets among good places; the number of steps is the same in every epoch."""
    places = good_targets(data.good, list(data.targets), settings.negatives, rng)
    mixed = [*data.targets, *places]
    return [mixed[i] for i in rng.permutation(len(mixed))]


def _step(
    state: _State,
    work: Work,
    cache: Embeddings,
    targets: Sequence[Target],
    settings: SamSettings,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Learn from one batch; return mean loss and first IoU."""
    if state.epoch < round(settings.coarse * settings.epochs):
        batch = coarse_batch(targets, cache, work.sam.device, state.kept)
    else:
        batch = whole_batch(targets, cache, work.sam.device)
    loss, iou = take_step(work, batch, settings, rng)
    if math.isfinite(loss):
        state.apply()
    return loss, iou


def _validate(
    sam: Sam,
    cache: Embeddings,
    val: Sequence[Target],
    run: Run,
    pool: Executor,
    *,
    epoch: int,
    **row: float,
) -> float:
    if not val:
        run.add_result({"epoch": epoch, **row})
        return float(epoch)  # nothing to choose by: the last epoch is kept

    def of_one(target: Target, kind: str) -> float:
        return mean_iou(sam, cache, [target], kind)

    box, click = (
        float(np.mean(list(pool.map(of_one, val, [kind] * len(val)))))
        for kind in ("box", "1-click")
    )
    run.add_result({"epoch": epoch, "val_box_iou": box, "val_click_iou": click, **row})
    run.log(f"epoch {epoch}: validation IoU box {box:.4f}, one click {click:.4f}")
    return (box + click) / 2

"""Training of the mask decoder on cached embeddings: SAM's interactive recipe, in batches.

How a step computes its gradients is in `gradients`. Several processes may divide each step among
them: all have the same weights throughout, and the first one validates and writes.
"""

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
from torch import Tensor

from toolkit.data.types import Sample
from toolkit.errors import RunError
from toolkit.files import atomic_write
from toolkit.methods.sam.data_parallel import ALONE, Shards, device_of
from toolkit.methods.sam.embeddings import thread_count, thread_pool, training_cache
from toolkit.methods.sam.evaluate import region_ious
from toolkit.methods.sam.gradients import (
    StepContext,
    compute_gradients,
    full_res_batch,
    low_res_batch,
)
from toolkit.methods.sam.model import (
    DECODER,
    ENCODER_KEY,
    copy_decoder,
    initial_model,
    load_decoder,
    save_decoder,
)
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.targets import Embeddings, Target, TrainingData, good_targets
from toolkit.methods.sam.tta import View
from toolkit.progress import progress
from toolkit.runs.environment import computes_bfloat16
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

LAST = "last.pt"
_GRADIENT_NORM = 1.0
_FULL_RES_COST = 3.3
"""Seconds of a step at SAM's own resolution in those of one at half of it."""
_FUSED = ("cpu", "cuda")
"""Where AdamW updates all parameters in one call, which takes a tenth of the time."""


def train(
    sam: Sam,
    cache: Embeddings,
    data: TrainingData,
    settings: SamSettings,
    run: Run,
    shards: Shards = ALONE,
) -> None:
    """Fine-tune the decoder and leave the best weights in the run, and in `sam`.

    Most epochs use embeddings and masks at half the resolution: a step then costs less than half,
    and what is learned there (which parts of an image are meant) holds at SAM's own resolution,
    where the last epochs and all validation are done.

    The kept weights are a moving average of the trained ones; the epoch is chosen by the mean of
    box and click IoU over `val`. Epoch 0 is the untrained model: if nothing is better, it is kept.
    An interrupted training continues after its last whole epoch, to the same result.

    Args:
        sam: the model; changed in place.
        cache: embeddings of every sample that occurs.
        data: regions and places.
        settings: of the method.
        run: receives `results.csv`, the checkpoints, and the log.
        shards: which of several processes this is; the first one validates and writes.

    Raises:
        RunError: the loss is not finite; the best weights so far are kept.
    """
    threads = thread_count(sam.device)
    with thread_pool(threads) as pool:
        _train(sam, cache, data, settings, run, pool, threads, shards)
    if shards.is_first:
        load_decoder(sam, run.weights / DECODER)


def _train(
    sam: Sam,
    cache: Embeddings,
    data: TrainingData,
    settings: SamSettings,
    run: Run,
    pool: Executor,
    threads: int,
    shards: Shards,
) -> None:
    regions = min(len(data.targets), settings.samples_per_epoch)
    steps = math.ceil((regions + settings.negative_images) / settings.batch)
    low_res_epochs = round(settings.low_res_fraction * settings.epochs)
    costs = [1.0 if e < low_res_epochs else _FULL_RES_COST for e in range(settings.epochs)]
    state = _State(sam, settings, steps=steps)
    context = StepContext(sam, state.parameters, state.bfloat16, pool, threads, shards)
    low_res: dict[tuple[Path, View], Tensor] = {}
    best_path, last_path = run.weights / DECODER, run.weights / LAST
    (resumes,) = shards.of_first([float(last_path.is_file() and best_path.is_file())])
    if resumes:
        state.load(last_path)
        if shards.is_first:
            run.log(f"resumed after epoch {state.epoch}")
    elif shards.is_first:
        state.best = _validate(state, cache, data.val, run, pool)
        save_decoder(state.average, best_path)
    with progress("fine-tune sam", steps * sum(costs), show=shards.is_first) as bar:
        bar.skip(steps * sum(costs[: state.epoch]))
        while state.epoch < settings.epochs and state.stale < settings.patience:
            started = time.perf_counter()
            rng = np.random.default_rng([run.seed, state.epoch])
            chosen = _epoch_targets(data, settings, rng)
            losses: list[float] = []
            ious: list[float] = []
            for start in range(0, len(chosen), settings.batch):
                targets = chosen[start : start + settings.batch]
                if state.epoch < low_res_epochs:
                    batch = low_res_batch(targets, cache, sam.device, low_res, shards)
                else:
                    batch = full_res_batch(targets, cache, sam.device, shards)
                loss, iou = compute_gradients(context, batch, settings, rng)
                if not math.isfinite(loss):
                    raise RunError(
                        f"{run.path}: the loss is {loss} in epoch {state.epoch + 1}, step "
                        f"{len(losses) + 1} ({', '.join(t.sample.id for t in targets)}); the best "
                        "weights so far are kept; lower --lr"
                    )
                state.step()
                losses.append(loss)
                ious.append(iou)
                bar.advance(costs[state.epoch], loss=loss, iou=float(np.nanmean(ious)))
            state.epoch += 1
            row = {
                "train_loss": float(np.mean(losses)),
                "train_iou": float(np.nanmean(ious)),
                "lr": float(state.schedule.get_last_lr()[0]),
                "seconds": time.perf_counter() - started,
            }
            if shards.is_first:
                if state.epoch % settings.validate_every and state.epoch < settings.epochs:
                    run.add_result({"epoch": state.epoch, **row})
                else:
                    score = _validate(state, cache, data.val, run, pool, **row)
                    state.stale += 1
                    if score > state.best:
                        state.best, state.stale = score, 0
                        save_decoder(state.average, best_path)
                state.save(last_path)
            (stale,) = shards.of_first([state.stale])  # by which all end together
            state.stale = int(stale)


@dataclass(frozen=True)
class HelpTrain:
    """What each further process of a training does, see `training_processes`.

    Attributes:
        settings: of the method.
        run: directory of the run, which has its weights already.
        data: regions and places.
        views: of all images that are encoded.
    """

    settings: SamSettings
    run: Path
    data: TrainingData
    views: Sequence[tuple[Sample, View]]

    def __call__(self, shards: Shards) -> None:
        """Encode this process's part, and take part in every step."""
        run = Run.open(self.run)
        sam = initial_model(self.settings, run).to(device_of(shards, run.device))
        defects = [target.sample for target in self.data.targets]
        cache = training_cache(sam, run.metadata[ENCODER_KEY], defects)
        cache.fill(shards.own_part(self.views), show=False)
        train(sam, cache, self.data, self.settings, run, shards)


class _State:
    """Everything that changes during training, and its checkpoint."""

    def __init__(self, sam: Sam, settings: SamSettings, *, steps: int) -> None:
        self.sam, self.average = sam, copy_decoder(sam)
        names = ["mask_decoder"] + ["prompt_encoder"] * (settings.trainable == "decoder+prompt")
        self.modules = [sam.get_submodule(name) for name in names]
        self.average_modules = [self.average.get_submodule(name) for name in names]
        for layer in [sam.mask_decoder, sam.prompt_encoder]:
            layer.requires_grad_(layer in self.modules)
        self.parameters = [p for m in self.modules for p in m.parameters()]
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

    def step(self) -> None:
        """Take one optimiser step and update the moving average."""
        torch.nn.utils.clip_grad_norm_(self.parameters, _GRADIENT_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        # Short at first, so that the average soon leaves the untrained weights. (The averages of
        # torch and timm know a constant decay, or copy the weights of the first step.)
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            for ours, theirs in zip(self.average_modules, self.modules, strict=True):
                for mean, now in zip(ours.parameters(), theirs.parameters(), strict=True):
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


def _epoch_targets(
    data: TrainingData, settings: SamSettings, rng: np.random.Generator
) -> list[Target]:
    """Shuffle the targets among good places; the number of steps is the same in every epoch."""
    places = good_targets(data.good, data.targets, settings.negative_images, rng)
    chosen = rng.permutation(len(data.targets))[: settings.samples_per_epoch]
    mixed = [*(data.targets[i] for i in chosen), *places]
    return [mixed[i] for i in rng.permutation(len(mixed))]


def _validate(
    state: _State,
    cache: Embeddings,
    val: Sequence[Target],
    run: Run,
    pool: Executor,
    **row: float,
) -> float:
    """Record the validation IoU of the moving average; return the mean of box and click."""
    if not val:
        run.add_result({"epoch": state.epoch, **row})
        return float(state.epoch)  # nothing to choose by: the last epoch is kept
    ious = list(pool.map(lambda t: region_ious(state.average, cache, t, ("box", "1-click")), val))
    box, click = (float(column) for column in np.mean(ious, axis=0))
    run.add_result({"epoch": state.epoch, "val_box_iou": box, "val_click_iou": click, **row})
    run.log(f"epoch {state.epoch}: validation IoU box {box:.4f}, one click {click:.4f}")
    return (box + click) / 2

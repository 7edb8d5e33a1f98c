"""Training of the mask decoder on cached embeddings: SAM's interactive recipe, in batches.

A step is a first prompt for each of a batch of targets, and sometimes clicks on the errors. The
batch is divided among threads, whose gradients are added up in order, so that the same number of
threads gives the same weights.
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
from torch.nn import functional

from toolkit.boxes import jitter_box
from toolkit.errors import RunError
from toolkit.files import atomic_write
from toolkit.methods.sam.batched_decoder import INPUT_SIZE, LOGIT_LIMIT, decode, scale_to_input
from toolkit.methods.sam.embeddings import thread_count, thread_pool
from toolkit.methods.sam.evaluate import region_ious
from toolkit.methods.sam.losses import prompt_loss
from toolkit.methods.sam.model import DECODER, copy_decoder, load_decoder, save_decoder
from toolkit.methods.sam.prompts import (
    Prompt,
    box_prompt,
    click_on_error,
    click_prompt,
    likely_pixel,
    random_pixel,
    with_click,
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


@dataclass(frozen=True)
class StepContext:
    """Model, parameters and thread pool of a training step."""

    sam: Sam
    parameters: Sequence[Tensor]
    bfloat16: bool
    pool: Executor
    threads: int


@dataclass(frozen=True)
class Batch:
    """Input of one step.

    Attributes:
        targets: B regions, or places on good images.
        embeddings: float tensor (B, 256, h, w).
        truth: float tensor (B, 1, 4 h, 4 w) in [0, 1].
    """

    targets: Sequence[Target]
    embeddings: Tensor
    truth: Tensor


def train(sam: Sam, cache: Embeddings, data: TrainingData, settings: SamSettings, run: Run) -> None:
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

    Raises:
        RunError: the loss is not finite; the best weights so far are kept.
    """
    threads = thread_count(sam.device)
    with thread_pool(threads) as pool:
        _train(sam, cache, data, settings, run, pool, threads)
    load_decoder(sam, run.weights / DECODER)


def _train(
    sam: Sam,
    cache: Embeddings,
    data: TrainingData,
    settings: SamSettings,
    run: Run,
    pool: Executor,
    threads: int,
) -> None:
    regions = min(len(data.targets), settings.samples_per_epoch)
    steps = math.ceil((regions + settings.negative_images) / settings.batch)
    low_res_epochs = round(settings.low_res_fraction * settings.epochs)
    costs = [1.0 if e < low_res_epochs else _FULL_RES_COST for e in range(settings.epochs)]
    state = _State(sam, settings, steps=steps)
    context = StepContext(sam, state.parameters, state.bfloat16, pool, threads)
    low_res: dict[tuple[Path, View], Tensor] = {}
    best_path, last_path = run.weights / DECODER, run.weights / LAST
    if last_path.is_file() and best_path.is_file():
        state.load(last_path)
        run.log(f"resumed after epoch {state.epoch}")
    else:
        state.best = _validate(state, cache, data.val, run, pool)
        save_decoder(state.average, best_path)
    with progress("fine-tune sam", steps * sum(costs)) as bar:
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
                    batch = low_res_batch(targets, cache, sam.device, low_res)
                else:
                    batch = full_res_batch(targets, cache, sam.device)
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
            if state.epoch % settings.validate_every and state.epoch < settings.epochs:
                run.add_result({"epoch": state.epoch, **row})
            else:
                score = _validate(state, cache, data.val, run, pool, **row)
                state.stale += 1
                if score > state.best:
                    state.best, state.stale = score, 0
                    save_decoder(state.average, best_path)
            state.save(last_path)


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


def full_res_batch(targets: Sequence[Target], cache: Embeddings, device: torch.device) -> Batch:
    """Return a batch at SAM's own resolution."""
    embeddings = torch.stack([cache.get(t.sample, t.view) for t in targets])
    return Batch(targets, embeddings.to(device).float(), _truth(targets).to(device))


def low_res_batch(
    targets: Sequence[Target],
    cache: Embeddings,
    device: torch.device,
    low_res: dict[tuple[Path, View], Tensor],
) -> Batch:
    """Return a batch at half the resolution.

    Args:
        targets: of the batch.
        cache: embeddings.
        device: where the step is computed.
        low_res: embeddings (256, 32, 32) so far, half a MiB each; missing ones are added.
    """
    for target in targets:
        key = (target.sample.image, target.view)
        if key not in low_res:
            embedding = cache.get(target.sample, target.view)
            low_res[key] = functional.avg_pool2d(embedding.float(), 2).to(embedding.dtype)
    embeddings = torch.stack([low_res[t.sample.image, t.view] for t in targets])
    truth = functional.avg_pool2d(_truth(targets), 2)
    return Batch(targets, embeddings.to(device).float(), truth.to(device))


def compute_gradients(
    context: StepContext, batch: Batch, settings: SamSettings, rng: np.random.Generator
) -> tuple[float, float]:
    """Leave the gradients of one batch in the parameters; return mean loss and first IoU."""
    targets = batch.targets
    scales = [scale_to_input(t.size_wh) for t in targets]
    prompts = [_first_prompt(t, settings, rng) for t in targets]
    real = torch.tensor([t.region is not None for t in targets], device=batch.truth.device)
    ambiguous = torch.tensor([not p.is_box for p in prompts], device=batch.truth.device)
    rounds = 1 + (settings.refinement_clicks if rng.random() < settings.refinement_prob else 0)
    size = math.ceil(len(targets) / context.threads)
    slices = [slice(start, start + size) for start in range(0, len(targets), size)]
    feedback: Tensor | None = None
    losses, first_iou = [], float("nan")

    def compute(rows: slice) -> tuple[float, Tensor, Tensor, Sequence[Tensor | None]]:
        """Return loss, IoU (b,), logits (b, 1, 4 h, 4 w) and gradients of a part of the batch."""
        # Without its cache, which threads would share: one clears what the other still uses.
        with torch.autocast(
            batch.embeddings.device.type,
            torch.bfloat16,
            enabled=context.bfloat16,
            cache_enabled=False,
        ):
            decoded = decode(
                context.sam, batch.embeddings[rows], prompts[rows], scales[rows],
                None if feedback is None else feedback[rows],
            )  # fmt: skip
            logits, predicted = decoded.low_res_logits().float(), decoded.iou_predictions().float()
        each, iou = prompt_loss(logits, predicted, batch.truth[rows], real[rows], ambiguous[rows])
        loss = each.sum() / len(targets)
        gradients = torch.autograd.grad(loss / rounds, context.parameters, allow_unused=True)
        return float(loss.detach()), iou, logits[:, :1].detach(), gradients

    for number in range(rounds):
        parts = list(context.pool.map(compute, slices))
        for *_, gradients in parts:
            _add_gradients(context.parameters, gradients)
        losses.append(sum(loss for loss, *_ in parts))
        if number == 0 and bool(real.any()):
            first_iou = float(torch.cat([iou for _, iou, *_ in parts])[real].mean())
        if number + 1 < rounds:
            feedback = torch.cat([logits for _, _, logits, _ in parts])
            feedback = feedback.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            prompts = [
                _with_random_click(p, t.size_wh, low > 0, true > 0.5, rng)
                for p, t, low, true in zip(
                    prompts, targets, feedback[:, 0], batch.truth[:, 0], strict=True
                )
            ]
            ambiguous = torch.zeros_like(ambiguous)
    return float(np.mean(losses)), first_iou


def _truth(targets: Sequence[Target]) -> Tensor:
    return torch.from_numpy(np.stack([t.low_res_mask for t in targets]))[:, None]


def _add_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for tensor, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if tensor.grad is None:
            # In the parameter's own order of memory, which the fused update takes for granted.
            tensor.grad = torch.empty_like(tensor).copy_(gradient)
        else:
            tensor.grad.add_(gradient)


def _epoch_targets(
    data: TrainingData, settings: SamSettings, rng: np.random.Generator
) -> list[Target]:
    """Shuffle the targets among good places; the number of steps is the same in every epoch."""
    places = good_targets(data.good, data.targets, settings.negative_images, rng)
    chosen = rng.permutation(len(data.targets))[: settings.samples_per_epoch]
    mixed = [*(data.targets[i] for i in chosen), *places]
    return [mixed[i] for i in rng.permutation(len(mixed))]


def _first_prompt(target: Target, settings: SamSettings, rng: np.random.Generator) -> Prompt:
    if rng.random() < settings.box_prompt_prob:
        return box_prompt(
            jitter_box(target.box_xyxy, target.size_wh, rng, share=settings.box_jitter)
        )
    x0, y0, x1, y1 = target.box_xyxy
    if target.region is None:
        return click_prompt(float(rng.integers(x0, x1)), float(rng.integers(y0, y1)))
    x, y = likely_pixel(target.region.crop, rng)
    return click_prompt(x0 + x, y0 + y)


def _with_random_click(
    prompt: Prompt, size_wh: tuple[int, int], mask: Tensor, true: Tensor, rng: np.random.Generator
) -> Prompt:
    """Add a click on the error; where there is none, one on the object (or beside it)."""
    predicted, truth = mask.cpu().numpy(), true.cpu().numpy()
    found = click_on_error(predicted, truth, rng)
    if found is None:
        found = (*random_pixel(truth if truth.any() else ~truth, rng), bool(truth.any()))
    x, y, positive = found
    per_pixel = INPUT_SIZE / len(truth) / scale_to_input(size_wh)
    width, height = size_wh
    x, y = (min((c + 0.5) * per_pixel, n - 1) for c, n in ((x, width), (y, height)))
    return with_click(prompt, x, y, positive=positive)


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

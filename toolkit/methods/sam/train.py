"""Training of the mask decoder on cached embeddings: SAM's interactive recipe, in batches."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.errors import RunError
from toolkit.files import written_whole
from toolkit.methods.sam.decoder import INPUT_SIZE, decode, scale_to_input
from toolkit.methods.sam.embeddings import Embeddings, LiveEmbeddings
from toolkit.methods.sam.evaluate import mean_iou
from toolkit.methods.sam.lora import LoraLinear, lora_layers
from toolkit.methods.sam.losses import low_iou, mask_loss
from toolkit.methods.sam.model import copy_decoder, load_tuned, save_tuned, trained_modules
from toolkit.methods.sam.prompts import (
    Prompt,
    box_prompt,
    click_prompt,
    correction,
    jittered_box,
    likely_pixel,
    random_pixel,
    with_click,
)
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.targets import Target, good_targets
from toolkit.progress import progress
from toolkit.runs.machine import computes_bfloat16
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

BEST, LAST = "decoder.safetensors", "last.pt"
_GRADIENT_NORM = 1.0


def train(
    sam: Sam,
    cache: Embeddings,
    *,
    targets: Sequence[Target],
    good: Sequence[Any],
    val: Sequence[Target],
    settings: SamSettings,
    run: Run,
) -> None:
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
        targets: training regions in all frames.
        good: good training samples, for places without a defect.
        val: validation regions, of whole images and of windows.
        settings: of the method.
        run: receives `results.csv`, the checkpoints, and the log.

    Raises:
        RunError: the loss is no longer a number; the best weights so far are kept.
    """
    state = _State(sam, settings, steps=_steps(len(targets), settings))
    seen = LiveEmbeddings(state.average) if lora_layers(sam) else cache
    cache = LiveEmbeddings(sam) if lora_layers(sam) else cache
    best_path, last_path = run.weights / BEST, run.weights / LAST
    if last_path.is_file() and best_path.is_file():
        state.load(last_path)
        run.log(f"resumed after epoch {state.epoch}")
    else:
        state.best = _validate(state.average, seen, val, run, epoch=0)
        save_tuned(state.average, best_path)
    total = _steps(len(targets), settings) * settings.epochs
    with progress("fine-tune sam", total) as bar:
        bar.advance(state.epoch * _steps(len(targets), settings))
        while state.epoch < settings.epochs and state.stale < settings.patience:
            started = time.perf_counter()
            rng = np.random.default_rng([run.seed, state.epoch])
            chosen = _epoch_targets(targets, good, settings, rng)
            losses: list[float] = []
            ious: list[float] = []
            for start in range(0, len(chosen), settings.batch):
                batch = chosen[start : start + settings.batch]
                loss, iou = _step(state, cache, batch, settings, rng)
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
                score = _validate(state.average, seen, val, run, epoch=state.epoch, **row)
                state.stale += 1
                if score > state.best:
                    state.best, state.stale = score, 0
                    save_tuned(state.average, best_path)
            state.save(last_path)
    load_tuned(sam, best_path)


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
            self.parameters, lr=settings.lr, weight_decay=settings.weight_decay
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
        with written_whole(path) as temporary:
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


def _steps(count: int, settings: SamSettings) -> int:
    return math.ceil((count + settings.negatives) / settings.batch)


def _epoch_targets(
    targets: Sequence[Target], good: Sequence[Any], settings: SamSettings, rng: np.random.Generator
) -> list[Target]:
    """Shuffle the targets among good places; the number of steps is the same in every epoch."""
    mixed = [*targets, *good_targets(good, list(targets), settings.negatives, rng)]
    return [mixed[i] for i in rng.permutation(len(mixed))]


def _step(
    state: _State,
    cache: Embeddings,
    batch: Sequence[Target],
    settings: SamSettings,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Run the first prompt and the corrections of one batch; return mean loss and first IoU."""
    sam = state.sam
    device = sam.device
    encoded = torch.stack([cache.get(t.sample, t.frame) for t in batch]).float().to(device)
    # Each round's gradients are added up here, and go through the encoder once, if it learns.
    leaf = encoded.detach().requires_grad_(encoded.requires_grad)
    embeddings = leaf
    truth = torch.from_numpy(np.stack([t.low for t in batch]))[:, None].to(device)
    if state.epoch < round(settings.coarse * settings.epochs):
        embeddings = functional.avg_pool2d(leaf, 2)
        truth = functional.avg_pool2d(truth, 2)
    real = torch.tensor([t.region is not None for t in batch], device=device)
    scales = [scale_to_input(t.size_wh) for t in batch]
    prompts = [_first_prompt(t, settings, rng) for t in batch]
    ambiguous = torch.tensor([bool(p.labels[-1] < 0) for p in prompts], device=device)
    goes_on = rng.random() < settings.correction_share
    rounds = 1 + (settings.corrections if goes_on else 0)
    feedback: Tensor | None = None
    losses, first_iou = [], float("nan")
    for number in range(rounds):
        with torch.autocast(device.type, torch.bfloat16, enabled=state.bfloat16):
            decoded = decode(sam, embeddings, prompts, scales, feedback)
        logits = decoded.logits.float()
        loss, iou = _loss(logits, decoded.quality.float(), truth, real, ambiguous)
        (loss / rounds).backward(retain_graph=leaf.requires_grad)  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        if number == 0 and bool(real.any()):
            first_iou = float(iou[real].mean())
        if number + 1 < rounds:
            feedback = logits[:, :1].detach().clamp(-32, 32)
            prompts = [
                _corrected(p, t.size_wh, said > 0, true > 0.5, rng)
                for p, t, said, true in zip(
                    prompts, batch, feedback[:, 0], truth[:, 0], strict=True
                )
            ]
            ambiguous = torch.zeros_like(ambiguous)
    if leaf.grad is not None:
        encoded.backward(leaf.grad)  # type: ignore[no-untyped-call]
    mean = float(np.mean(losses))
    if math.isfinite(mean):
        state.apply()
    return mean, first_iou


def _loss(
    logits: Tensor, quality: Tensor, truth: Tensor, real: Tensor, ambiguous: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the batch's loss, and the IoU (B,) of the single masks.

    The single mask learns from every prompt; of the three candidates for an ambiguous prompt only
    the best one learns. Good places have no mask to learn: only the quality is pulled to zero.
    """
    iou = low_iou(logits, truth.expand_as(logits)) * real[:, None]
    single = mask_loss(logits[:, 0], truth[:, 0])
    quality_error = (quality - iou) ** 2
    total = real * single + quality_error[:, 0]
    if bool(ambiguous.any()):
        candidates = mask_loss(logits[:, 1:], truth.expand(-1, 3, -1, -1))
        best, index = candidates.min(dim=1)
        chosen = quality_error[:, 1:].gather(1, index[:, None])[:, 0]
        total = total + ambiguous * (real * best + chosen)
    return total.mean(), iou[:, 0]


def _first_prompt(target: Target, settings: SamSettings, rng: np.random.Generator) -> Prompt:
    if rng.random() < settings.box_share:
        return box_prompt(jittered_box(target.box_xyxy, target.size_wh, rng, share=settings.jitter))
    x0, y0, x1, y1 = target.box_xyxy
    if target.region is None:
        return click_prompt(float(rng.integers(x0, x1)), float(rng.integers(y0, y1)))
    x, y = likely_pixel(target.region.crop, rng)
    return click_prompt(x0 + x, y0 + y)


def _corrected(
    prompt: Prompt, size_wh: tuple[int, int], said: Tensor, true: Tensor, rng: np.random.Generator
) -> Prompt:
    """Add a click on the error; where there is none, one on the object (or beside it)."""
    predicted, truth = said.cpu().numpy(), true.cpu().numpy()
    found = correction(predicted, truth, rng)
    if found is None:
        found = (*random_pixel(truth if truth.any() else ~truth, rng), bool(truth.any()))
    x, y, positive = found
    per_pixel = INPUT_SIZE / len(truth) / scale_to_input(size_wh)
    width, height = size_wh
    return with_click(
        prompt,
        min((x + 0.5) * per_pixel, width - 1),
        min((y + 0.5) * per_pixel, height - 1),
        positive=positive,
    )


def _validate(
    sam: Sam, cache: Embeddings, val: Sequence[Target], run: Run, *, epoch: int, **row: float
) -> float:
    if not val:
        run.add_result({"epoch": epoch, **row})
        return float(epoch)  # nothing to choose by: the last epoch is kept
    box, click = mean_iou(sam, cache, val, "box"), mean_iou(sam, cache, val, "1-click")
    run.add_result({"epoch": epoch, "val_box_iou": box, "val_click_iou": click, **row})
    run.log(f"epoch {epoch}: validation IoU box {box:.4f}, one click {click:.4f}")
    return (box + click) / 2

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from toolkit.data.regions import regions_of
from toolkit.data.types import Sample
from toolkit.errors import RunError
from toolkit.methods.sam.embeddings import thread_pool
from toolkit.methods.sam.gradients import (
    StepContext,
    compute_gradients,
    full_res_batch,
    low_res_batch,
)
from toolkit.methods.sam.model import DECODER, copy_decoder
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.targets import Target, TrainingData, low_res_mask
from toolkit.methods.sam.train import train
from toolkit.methods.sam.tta import WHOLE, View
from toolkit.runs.run import Run

CPU = torch.device("cpu")
SETTINGS = SamSettings(
    epochs=3,
    augmentations=1,
    batch=2,
    negative_images=1,
    lr=1e-3,
    patience=10,
    refinement_prob=0.5,
    low_res_fraction=0.4,
    validate_every=1,
)


class _Cache:
    """Random embeddings, without an encoder."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.calls = factor, 0

    def get(self, sample: Sample, view: View = WHOLE) -> torch.Tensor:
        self.calls += 1
        generator = torch.Generator().manual_seed(int(sample.id))
        return torch.randn(256, 64, 64, generator=generator).half() * self.factor


def _targets(count: int) -> list[Target]:
    targets = []
    for number in range(count):
        mask = np.zeros((64, 64), bool)
        mask[8 + number : 40, 10:44] = True
        (region,) = regions_of(mask)
        sample = Sample(id=str(number), image=Path(f"{number}.png"), label="scratch")
        targets.append(Target(sample, WHOLE, (64, 64), region.box_xyxy, region, low_res_mask(mask)))
    return targets


def _good(target: Target) -> Target:
    return replace(target, region=None, low_res_mask=target.low_res_mask * 0)


def _run(folder: Path) -> Run:
    return Run.create(folder, method="sam", settings={}, split={}, data={}, name="x")


def _train(sam, run: Run, settings: SamSettings = SETTINGS, cache: _Cache | None = None) -> None:
    targets = _targets(4)
    good = [Sample(id="9", image=Path("none.png"), label="good")]
    data = TrainingData(targets=targets[:3], good=good, val=targets[3:])
    train(sam, cache or _Cache(), data, settings, run)


@pytest.mark.slow
def test_training_learns_and_resuming_gives_the_same_weights(small_sam, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = _run(tmp_path / "whole")
    _train(copy_decoder(small_sam), whole)
    rows = whole.results()
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert float(rows[3]["train_loss"]) < float(rows[1]["train_loss"])

    halted = _run(tmp_path / "halted")
    with pytest.MonkeyPatch.context() as patch:
        _interrupt_in_epoch(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            _train(copy_decoder(small_sam), halted)
    _train(copy_decoder(small_sam), halted)
    one, other = load_file(whole.weights / DECODER), load_file(halted.weights / DECODER)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(one) == len(other)


def _interrupt_in_epoch(patch: pytest.MonkeyPatch, epoch: int) -> None:
    from toolkit.methods.sam import train as module

    real = module._State.step

    def step(state):
        if state.epoch == epoch:
            raise KeyboardInterrupt
        real(state)

    patch.setattr(module._State, "step", step)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_weights(
    small_sam, tmp_path: Path
) -> None:
    run = _run(tmp_path)
    with pytest.raises(RunError, match=r"the loss is nan in epoch 1, step 1 \(\d, \d\)"):
        _train(copy_decoder(small_sam), run, cache=_Cache(float("nan")))
    kept = load_file(run.weights / DECODER)
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())


def _step_targets() -> list[Target]:
    first, second, third = _targets(3)
    return [first, _good(second), third]


def _gradients(sam, count: int, settings: SamSettings) -> tuple[float, float, list[torch.Tensor]]:
    sam = copy_decoder(sam)
    parameters = list(sam.mask_decoder.requires_grad_(True).parameters())
    batch = low_res_batch(_step_targets(), _Cache(), CPU, {})
    with thread_pool(count) as pool:
        context = StepContext(sam, parameters, False, pool, count)
        loss, iou = compute_gradients(context, batch, settings, np.random.default_rng(0))
    return loss, iou, [p.grad for p in parameters if p.grad is not None]


def test_gradients_lie_in_memory_as_their_parameters_do(small_sam) -> None:
    # A fused update reads both side by side; some gradients are computed transposed.
    sam = copy_decoder(small_sam)
    parameters = list(sam.mask_decoder.requires_grad_(True).parameters())
    with thread_pool(1) as pool:
        context = StepContext(sam, parameters, False, pool, 1)
        batch = low_res_batch(_step_targets(), _Cache(), CPU, {})
        compute_gradients(context, batch, SamSettings(), np.random.default_rng(0))
    trained = [p for p in parameters if p.grad is not None]
    assert len(trained) > 100
    assert all(p.grad.stride() == p.stride() for p in trained)


@pytest.mark.parametrize("refined", [0.0, 1.0])  # share of steps with a second round
def test_threads_compute_together_what_one_computes_alone(small_sam, refined: float) -> None:
    settings = SamSettings(refinement_prob=refined)
    loss, iou, alone = _gradients(small_sam, 1, settings)
    loss_of_two, iou_of_two, together = _gradients(small_sam, 2, settings)
    assert loss_of_two == pytest.approx(loss, rel=1e-4)
    assert iou_of_two == pytest.approx(iou, abs=1e-3)
    assert len(together) == len(alone) > 100
    whole = torch.cat([g.flatten() for g in alone])
    difference = torch.cat([g.flatten() for g in together]) - whole
    assert float(difference.norm() / whole.norm()) < 1e-2


def test_threads_do_not_race(small_sam) -> None:
    settings = SamSettings(refinement_prob=1.0)
    first, second = (_gradients(small_sam, 2, settings) for _ in range(2))
    assert first[:2] == second[:2]
    assert all(torch.equal(a, b) for a, b in zip(first[2], second[2], strict=True))


def test_low_res_embeddings_are_read_once() -> None:
    cache, low_res = _Cache(), {}
    first = low_res_batch(_step_targets(), cache, CPU, low_res)
    again = low_res_batch(_step_targets(), cache, CPU, low_res)
    assert cache.calls == len(low_res) == 3
    assert torch.equal(first.embeddings, again.embeddings)
    whole = full_res_batch(_step_targets(), cache, CPU)
    torch.testing.assert_close(
        first.embeddings, functional.avg_pool2d(whole.embeddings, 2), rtol=1e-3, atol=1e-3
    )
    assert first.truth.shape == (3, 1, 128, 128)
    assert whole.truth.shape == (3, 1, 256, 256)
    assert float(first.truth.sum()) * 4 == pytest.approx(float(whole.truth.sum()))

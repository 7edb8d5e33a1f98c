from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from toolkit.data.regions import regions_of
from toolkit.data.types import Sample
from toolkit.methods.sam.frames import WHOLE, Frame
from toolkit.methods.sam.model import copy_decoder
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.step import Work, coarse_batch, take_step, whole_batch
from toolkit.methods.sam.targets import Target, low_mask
from toolkit.methods.sam.workers import workers

CPU = torch.device("cpu")


class _Cache:
    def __init__(self) -> None:
        self.calls = 0

    def get(self, sample: Sample, frame: Frame = WHOLE) -> torch.Tensor:
        self.calls += 1
        generator = torch.Generator().manual_seed(int(sample.id))
        return torch.randn(256, 64, 64, generator=generator).half()


def _target(number: int, *, good: bool = False) -> Target:
    mask = np.zeros((64, 64), bool)
    mask[8 + number : 40, 10:44] = True
    (region,) = regions_of(mask)
    sample = Sample(id=str(number), image=Path(f"{number}.png"), label="scratch")
    low = low_mask(mask) * (not good)
    return Target(sample, WHOLE, (64, 64), region.box_xyxy, None if good else region, low)


TARGETS = [_target(0), _target(1, good=True), _target(2)]


def _gradients(sam, count: int, settings: SamSettings) -> tuple[float, float, list[torch.Tensor]]:
    sam = copy_decoder(sam)
    parameters = list(sam.mask_decoder.requires_grad_(True).parameters())
    batch = coarse_batch(TARGETS, _Cache(), CPU, {})
    with workers(count) as pool:
        work = Work(sam, parameters, False, pool, count)
        loss, iou = take_step(work, batch, settings, np.random.default_rng(0))
    return loss, iou, [p.grad for p in parameters if p.grad is not None]


def test_gradients_lie_in_memory_as_their_parameters_do(small_sam) -> None:
    # A fused update reads both side by side; some gradients are computed transposed.
    sam = copy_decoder(small_sam)
    parameters = list(sam.mask_decoder.requires_grad_(True).parameters())
    with workers(1) as pool:
        work = Work(sam, parameters, False, pool, 1)
        batch = coarse_batch(TARGETS, _Cache(), CPU, {})
        take_step(work, batch, SamSettings(), np.random.default_rng(0))
    learnt = [p for p in parameters if p.grad is not None]
    assert len(learnt) > 100
    assert all(p.grad.stride() == p.stride() for p in learnt)


@pytest.mark.parametrize("corrected", [0.0, 1.0])  # share of steps with a second round
def test_threads_learn_together_what_one_learns_alone(small_sam, corrected: float) -> None:
    settings = SamSettings(correction_share=corrected)
    loss, iou, alone = _gradients(small_sam, 1, settings)
    loss_of_two, iou_of_two, together = _gradients(small_sam, 2, settings)
    assert loss_of_two == pytest.approx(loss, rel=1e-4)
    assert iou_of_two == pytest.approx(iou, abs=1e-3)
    assert len(together) == len(alone) > 100
    whole = torch.cat([g.flatten() for g in alone])
    difference = torch.cat([g.flatten() for g in together]) - whole
    assert float(difference.norm() / whole.norm()) < 1e-2


def test_threads_do_not_race(small_sam) -> None:
    settings = SamSettings(correction_share=1.0)
    first, second = (_gradients(small_sam, 2, settings) for _ in range(2))
    assert first[:2] == second[:2]
    assert all(torch.equal(a, b) for a, b in zip(first[2], second[2], strict=True))


def test_coarse_embeddings_are_read_once() -> None:
    cache, kept = _Cache(), {}
    first = coarse_batch(TARGETS, cache, CPU, kept)
    again = coarse_batch(TARGETS, cache, CPU, kept)
    assert cache.calls == len(kept) == 3
    assert torch.equal(first.encoded, again.encoded)
    whole = whole_batch(TARGETS, cache, CPU)
    torch.testing.assert_close(
        first.encoded, functional.avg_pool2d(whole.encoded, 2), rtol=1e-3, atol=1e-3
    )
    assert first.truth.shape == (3, 1, 128, 128)
    assert whole.truth.shape == (3, 1, 256, 256)
    assert float(first.truth.sum()) * 4 == pytest.approx(float(whole.truth.sum()))

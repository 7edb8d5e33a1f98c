from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from toolkit.data.regions import regions_of
from toolkit.data.types import Sample
from toolkit.errors import RunError
from toolkit.methods.sam.frames import WHOLE, Frame
from toolkit.methods.sam.model import copy_decoder
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.targets import Target, low_mask
from toolkit.methods.sam.train import BEST, Material, train
from toolkit.runs.run import Run

SETTINGS = SamSettings(
    epochs=3,
    views=1,
    batch=2,
    negatives=1,
    lr=1e-3,
    patience=10,
    correction_share=0.5,
    coarse=0.4,
    validate_every=1,
)


class _Cache:
    """Embeddings that show the defect plainly, without an encoder."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def get(self, sample: Sample, frame: Frame = WHOLE) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(sample.id))
        return torch.randn(256, 64, 64, generator=generator).half() * self.factor


def _targets(count: int) -> list[Target]:
    targets = []
    for number in range(count):
        mask = np.zeros((64, 64), bool)
        mask[8 + number : 40, 10:44] = True
        (region,) = regions_of(mask)
        sample = Sample(id=str(number), image=Path("none.png"), label="scratch")
        targets.append(Target(sample, WHOLE, (64, 64), region.box_xyxy, region, low_mask(mask)))
    return targets


def _run(folder: Path) -> Run:
    return Run.create(folder, method="sam", settings={}, split={}, data={}, name="x")


def _train(sam, run: Run, settings: SamSettings = SETTINGS, cache: _Cache | None = None) -> None:
    targets = _targets(4)
    good = [Sample(id="9", image=Path("none.png"), label="good")]
    data = Material(targets=targets[:3], good=good, val=targets[3:])
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
    one, other = load_file(whole.weights / BEST), load_file(halted.weights / BEST)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(one) == len(other)


def _interrupt_in_epoch(patch: pytest.MonkeyPatch, epoch: int) -> None:
    from toolkit.methods.sam import train as module

    real = module._step

    def step(state, *args):
        if state.epoch == epoch:
            raise KeyboardInterrupt
        return real(state, *args)

    patch.setattr(module, "_step", step)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights(
    small_sam, tmp_path: Path
) -> None:
    run = _run(tmp_path)
    with pytest.raises(RunError, match=r"the loss is nan in epoch 1, step 1 \(\d, \d\)"):
        _train(copy_decoder(small_sam), run, cache=_Cache(float("nan")))
    kept = load_file(run.weights / BEST)
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())

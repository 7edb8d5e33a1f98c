"""Two training processes that talk through gloo do what one does."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.methods.sam.test_train import SETTINGS, _Cache, _good, _run, _targets
from toolkit.config import settings_dict
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.types import Sample
from toolkit.errors import ConfigError, RunError
from toolkit.methods.sam.data_parallel import Shards, training_processes
from toolkit.methods.sam.method import Sam
from toolkit.methods.sam.model import DECODER, copy_decoder
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.targets import TrainingData
from toolkit.methods.sam.train import HelpTrain, train
from toolkit.methods.sam.tta import WHOLE, View
from toolkit.runs.run import Run
from toolkit.weights.mobile_sam_network import empty_mobile_sam

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.distributed.is_available(), reason="this torch has no torch.distributed"
    ),
]
# In float32, so that all that differs is the order of additions.
PAIRED = replace(SETTINGS, epochs=2, batch=3, precision="float32", low_res_fraction=0.5)


def _model() -> Any:
    torch.manual_seed(0)
    return empty_mobile_sam().eval().requires_grad_(False)


def _data() -> TrainingData:
    targets = _targets(6)
    good = [Sample(id="9", image=Path("none.png"), label="good")]
    return TrainingData(targets=targets[:5], good=good, val=targets[5:])


@dataclass(frozen=True)
class Help:
    """Trains as the second process, and leaves its weights and what it read beside the run."""

    run: Path
    fails: bool = False

    def __call__(self, shards: Shards) -> None:
        if self.fails:
            raise SystemExit(1)
        sam, cache = _model(), _Cache()
        train(sam, cache, _data(), PAIRED, Run.open(self.run), shards)
        torch.save((sam.mask_decoder.state_dict(), cache.calls), self.run / "second.pt")


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    alone, paired = _run(tmp_path / "alone"), _run(tmp_path / "paired")
    whole = _Cache()
    train(_model(), whole, _data(), PAIRED, alone)
    sam, first = _model(), _Cache()
    trained: dict[str, torch.Tensor] = {}

    with (
        training_processes(2, Help(paired.path), device="cpu") as shards,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(  # what would replace the trained weights by the best ones
            "toolkit.methods.sam.train.load_decoder",
            lambda sam, _: trained.update(copy_decoder(sam).mask_decoder.state_dict()),
        )
        train(sam, first, _data(), PAIRED, paired, shards)
    theirs, calls = torch.load(paired.path / "second.pt", weights_only=True)
    assert trained.keys() == theirs.keys()
    for name, tensor in trained.items():
        assert torch.equal(tensor, theirs[name]), "both processes have the same weights"
    for mine, other in zip(alone.results(), paired.results(), strict=True):
        for key in ("train_loss", "train_iou", "val_box_iou", "val_click_iou"):
            if mine[key] or other[key]:
                assert float(mine[key]) == pytest.approx(float(other[key]), rel=1e-3, abs=1e-4)
    one, two = load_file(alone.weights / DECODER), load_file(paired.weights / DECODER)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-2, atol=2e-4)
    assert 0 < calls < whole.calls, "encodings are divided"
    assert not torch.distributed.is_initialized()


def test_a_batch_is_divided_evenly_and_a_view_goes_to_its_owner() -> None:
    targets = [*_targets(6), *map(_good, _targets(3))]
    for count in (1, 2, 4):
        rows = [Shards(rank, count).rows(targets) for rank in range(count)]
        assert sorted(i for own in rows for i in own) == list(range(9))
        assert max(map(len, rows)) <= -(-9 // count)
        owned = [[Shards(r, count).owns(t.sample, t.view) for r in range(count)] for t in targets]
        assert all(sum(one) == 1 for one in owned)
        for rank, own in enumerate(rows):
            kept = sum(owned[i][rank] for i in own)
            assert kept == min(sum(one[rank] for one in owned), -(-9 // count))


def test_a_process_that_ends_is_one_line_and_the_run_can_go_on(tmp_path: Path) -> None:
    run = _run(tmp_path)
    with (
        pytest.raises(RunError, match=r"another training process has ended.*--resume"),
        training_processes(2, Help(run.path, fails=True), device="cpu") as shards,
    ):
        train(_model(), _Cache(), _data(), PAIRED, run, shards)
    assert not torch.distributed.is_initialized()


def test_more_processes_than_cards_are_refused() -> None:
    with (
        pytest.raises(ConfigError, match=r"processes=9: one per card, and this machine has \d"),
        training_processes(9, Help(Path()), device="cuda"),
    ):
        pass
    with pytest.raises(ValueError, match="processes=0: choose 1 or more"):
        SamSettings(processes=0)


class _Filled(_Cache):
    """Random embeddings under the interface of the cache; notes what it is to encode."""

    engine = "none"

    def __init__(self, *_: Any) -> None:
        super().__init__()
        self.filled: list[tuple[Sample, View]] = []

    def get(self, sample: Sample, view: View = WHOLE) -> torch.Tensor:
        return super().get(replace(sample, id=str(len(sample.id))), view)

    def fill(self, wanted: Any, *, show: bool = True) -> int:
        self.filled += wanted
        return len(self.filled)


@dataclass(frozen=True)
class QuickHelp(HelpTrain):
    """The second process of a run, without an encoder."""

    def __call__(self, shards: Shards) -> None:
        from toolkit.methods.sam import train as module

        cache = _Filled()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "training_cache", lambda *_: cache)
            super().__call__(shards)
        filled = [f"{sample.id} {view}" for sample, view in cache.filled]
        (self.run / "second.json").write_text(json.dumps(filled))


def test_a_run_by_two_processes(
    sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole method: the second process reads what the first one wrote, and encodes its part."""
    torch.set_num_threads(1)
    settings = SamSettings(
        weights="none", epochs=1, augmentations=2, crops_per_region=0, negative_images=1,
        samples_per_epoch=4, validate_every=1, processes=2,
    )  # fmt: skip
    dataset = load_dataset(sample_dir)
    whole = make_plan(dataset, protocol="supervised").fold(dataset, 0)
    defects = [s for s in whole.train if s.is_defect]
    split = replace(whole, train=tuple(defects[:2]), val=tuple(defects[2:4]))
    run = Run.create(tmp_path, method="sam", settings=settings_dict(settings), data={}, split={})
    cache = _Filled()
    monkeypatch.setattr("toolkit.methods.sam.embeddings.training_cache", lambda *_: cache)
    monkeypatch.setattr("toolkit.methods.sam.train.HelpTrain", QuickHelp)
    Sam(settings).fit(split, run)
    rows = run.results()
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert np.isfinite(float(rows[1]["train_loss"]))
    assert (run.weights / DECODER).is_file()
    mine = {f"{sample.id} {view}" for sample, view in cache.filled}
    theirs = set(json.loads((run.path / "second.json").read_text()))
    assert mine
    assert theirs
    assert not mine & theirs, "each encodes its own part"
    assert len(mine | theirs) >= 6

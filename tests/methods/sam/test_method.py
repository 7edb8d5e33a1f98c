"""A run holds all that its predictions depend on, and nothing writes into it afterwards."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import few_images
from toolkit.config import settings_dict
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.errors import WeightsError
from toolkit.files import read_json
from toolkit.methods.sam.method import Sam
from toolkit.methods.sam.model import initial_model
from toolkit.methods.sam.settings import SamSettings
from toolkit.runs.run import Run

pytestmark = pytest.mark.slow
SETTINGS = SamSettings(weights="none", epochs=0, points_per_side=2)
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
PREDICT = """
import sys
import numpy as np
from toolkit.methods.registry import load_method
from toolkit.runs.run import Run

run = Run.open(sys.argv[1])
image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
(found,) = load_method(run).load(run).predict([image])
print(repr(found.score), int(found.mask.sum()))
"""


@pytest.fixture(scope="module")
def split(sample_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("few") / "data"
    dataset = load_dataset(few_images(sample_dir, folder))  # the encoder takes a second for each
    return make_plan(dataset, protocol="supervised").fold(dataset, 0)


def _trained(folder: Path, split: Split, settings: SamSettings = SETTINGS, **inputs: str) -> Run:
    run = Run.create(
        folder, method="sam", settings=settings_dict(settings), data={}, inputs=inputs,
        split={"hash": split.plan_hash, "fold": split.fold, "train": [s.id for s in split.train]},
    )  # fmt: skip
    Sam(settings).fit(split, run)
    return run


@pytest.fixture(scope="module")
def run(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _trained(tmp_path_factory.mktemp("runs"), split)


def _files(run: Run) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def test_a_run_with_random_weights_predicts_the_same_in_another_process(run: Run) -> None:
    before = _files(run)
    (found,) = Sam(SETTINGS).load(run).predict([IMAGE])
    assert found.mask is not None
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, str(run.path)], capture_output=True, text=True, check=True
    )
    score, pixels = done.stdout.split()
    assert float(score) == pytest.approx(found.score, abs=1e-6)
    assert int(pixels) == int(found.mask.sum())
    assert _files(run) == before


def test_a_resumed_training_continues_with_its_own_weights(run: Run, split: Split) -> None:
    before = (run.weights / "initial.safetensors").read_bytes()
    (run.weights / "decoder.safetensors").unlink()
    Sam(SETTINGS).fit(split, run)
    assert (run.weights / "initial.safetensors").read_bytes() == before


def test_a_decoder_is_reused_with_its_encoder(run: Run, split: Split, tmp_path: Path) -> None:
    other = _trained(tmp_path, split, decoder_run=str(run.path))
    whole = replace(SETTINGS, crop_scale=0)  # crops are four more encodings each
    assert Sam(whole).load(other).predict([IMAGE])[0].score == pytest.approx(
        Sam(whole).load(run).predict([IMAGE])[0].score, abs=1e-6
    )


@pytest.mark.parametrize("damage", ["encoder", "missing", "nan", "text"])
def test_a_run_whose_weights_are_not_its_own_is_refused(
    split: Split, tmp_path: Path, damage: str
) -> None:
    from safetensors.torch import load_file, save_file

    run = _trained(tmp_path, split)
    path = run.weights / "initial.safetensors"
    if damage == "missing":
        path.unlink()  # so that other random weights would be made
    elif damage == "text":
        path.write_text("not tensors")
    else:
        state = load_file(path)
        name = next(n for n in state if n.endswith("c.weight"))
        state[name] = state[name] + 1 if damage == "encoder" else state[name] * float("nan")
        save_file(state, path)
    with pytest.raises(WeightsError) as caught:
        Sam(SETTINGS).load(run)
    message = str(caught.value)
    assert str(run.path) in message
    assert "\n" not in message
    expected = {"nan": "not finite", "text": "cannot be read as safetensors"}
    assert expected.get(damage, "trained with the image encoder") in message


def test_the_weights_of_a_file_are_kept_and_those_of_the_registry_are_not(
    small_sam, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.methods.sam import model
    from toolkit.weights.resolve import ResolvedWeights

    path = tmp_path / "sam.pt"
    torch.save(small_sam.state_dict(), path)
    settings = SamSettings(weights=str(path), epochs=0)
    run = _trained(tmp_path, split, settings)
    path.unlink()
    sam = initial_model(settings, run)
    assert torch.equal(
        sam.mask_decoder.mask_tokens.weight, small_sam.mask_decoder.mask_tokens.weight
    )

    torch.save(small_sam.state_dict(), path)
    known = ResolvedWeights("mobile-sam", "registry", path)
    monkeypatch.setattr(model, "resolve_weights", lambda *_, **__: known)
    run = _trained(tmp_path, split, SamSettings(epochs=0))
    assert [p.name for p in run.weights.iterdir()] == ["decoder.safetensors"]
    assert run.metadata["weights"] == "mobile-sam"


@pytest.mark.slow
def test_the_report_compares_both_models(split: Split, run: Run) -> None:
    report = Sam(SETTINGS).report(split, run)
    box = report["prompted"]["box"]
    assert box["difference"] == 0  # nothing was trained
    assert set(report["regions"]) == {
        "zero_shot", "tuned", "without_choice", "without_crops", "zero_shot_with_crops"
    }  # fmt: skip
    assert box["iou_without_choice"] == box["iou_zero_shot_with_crops"]
    assert report["images"]["prompter"] is None  # nothing was predicted
    assert 0 <= report["images"]["true_boxes"] <= 1
    assert read_json(run.path / "run.json")["metadata"] == run.metadata

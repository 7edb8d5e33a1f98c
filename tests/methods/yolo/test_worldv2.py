"""YOLO-World's own network, whose contrastive head has batch norms, trained for one epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.methods.yolo.small import NewRun, fit
from toolkit import ultralytics_env
from toolkit.data.dataset_cards import class_phrases
from toolkit.data.splits import Split
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.yolo import network
from toolkit.methods.yolo.text_embeddings import (
    class_embeddings,
    load_text_embeddings,
    orthonormal_embeddings,
)

MODEL = "yolov8s-worldv2"
SHORT = {
    "model": MODEL,
    "epochs": 1,
    "batch": 2,
    "copy_paste_per_image": 0,
    "background_images": "0",
}

pytestmark = pytest.mark.slow


@pytest.fixture
def four(split: Split) -> Split:
    """Four images to train on, two to validate."""
    train = [s for s in split.train if s.is_defect][:4]
    return replace(split, train=tuple(train), val=tuple(s for s in split.val if s.is_defect)[:2])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A checkpoint of the network, untrained, in the half precision that checkpoints have."""
    import torch

    ultralytics_env.prepare()
    torch.manual_seed(0)
    made = network.build_network(MODEL, nc=3).half()
    torch.save({"model": made, "train_args": {}}, tmp_path / "base.pt")
    return tmp_path / "base.pt"


def _changed(run: Any, base: Path) -> set[str]:
    before = network.load_network(base).state_dict()
    after = network.load_network(run.weights / "last.pt").state_dict()
    return {
        key
        for key, tensor in after.items()
        if key not in before or not np.array_equal(tensor.numpy(), before[key].numpy())
    }


def test_the_whole_network_learns(new_run: NewRun, four: Split, base: Path) -> None:
    method, run = new_run("yolo-world", weights=str(base), **SHORT)
    fit(method, run, four)
    changed = _changed(run, base)
    assert "model.0.conv.weight" in changed
    assert "model.22.cv4.0.norm.running_mean" in changed
    assert len(list(predict_samples(method.load(run), four.val))) == 2


@pytest.mark.parametrize("train_logit_scale", [False, True])
def test_prompt_tuning_leaves_weights_and_statistics(
    train_logit_scale: bool, new_run: NewRun, four: Split, base: Path
) -> None:
    method, run = new_run(
        "yolo-world", weights=str(base), trainable="prompts",
        train_logit_scale=train_logit_scale, lr=0.1, head_lr_mult=1.0,
        ultralytics_args={"plots": False, "warmup_epochs": 0.0}, **SHORT,
    )  # fmt: skip
    fit(method, run, four)
    may = {f"model.22.cv4.{i}.{name}" for i in range(3) for name in ("bias", "logit_scale")}
    changed = _changed(run, base)
    assert "prompts" in changed
    assert changed - {"prompts"} <= (may if train_logit_scale else set())
    assert bool(changed & may) == train_logit_scale
    prompts = class_phrases(four.dataset)
    phrases = orthonormal_embeddings([phrase for group in prompts.values() for phrase in group])
    start, tuned = (
        class_embeddings(phrases, prompts),
        load_text_embeddings(run.weights / "prompts.safetensors"),
    )
    assert not np.allclose(tuned.of(start.phrases), start.vectors, atol=1e-3)
    assert len(list(predict_samples(method.load(run), four.val))) == 2

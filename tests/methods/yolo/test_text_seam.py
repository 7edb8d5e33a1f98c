"""The seam through which Ultralytics gets text embeddings. These fail when it moves."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from toolkit import ultralytics_env
from toolkit.errors import ConfigError, ToolkitError
from toolkit.methods.yolo.network import model_yaml
from toolkit.methods.yolo.prompts import orthonormal_bank
from toolkit.methods.yolo.text_seam import answered_from

NAMES = ["broken_large", "broken_small", "contamination"]


@pytest.fixture
def no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any attempt to build CLIP an error."""
    ultralytics_env.prepare()

    def build_text_model(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Ultralytics asked for CLIP")

    # The real module cannot even be imported without CLIP.
    stand_in = ModuleType("ultralytics.nn.text_model")
    stand_in.build_text_model = build_text_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)


@pytest.fixture
def world(no_clip: None) -> Any:
    from ultralytics.nn.tasks import WorldModel

    return WorldModel(model_yaml("yolo11n-world"), nc=3, verbose=False)


def test_set_classes_takes_its_vectors_from_the_bank(world: Any) -> None:
    bank = orthonormal_bank(NAMES)
    with answered_from(bank):
        world.set_classes(NAMES)
    assert world.txt_feats.shape == (1, 3, 512)
    np.testing.assert_array_equal(world.txt_feats[0].numpy(), bank.of(NAMES))


def test_the_trainer_takes_its_vectors_from_the_bank(world: Any, tmp_path: Any) -> None:
    from ultralytics.models.yolo.world import WorldTrainer

    trainer = WorldTrainer.__new__(WorldTrainer)  # what a trainer needs to ask, and no more
    trainer.model, trainer.device = world, torch.device("cpu")
    bank = orthonormal_bank(NAMES)
    with answered_from(bank):
        found = trainer.generate_text_embeddings(NAMES, batch=2, cache_dir=tmp_path)
    assert list(found) == NAMES
    np.testing.assert_array_equal(torch.stack(list(found.values())).numpy(), bank.of(NAMES))


def test_the_averaged_model_is_given_its_classes_before_training() -> None:
    ultralytics_env.prepare()
    from ultralytics.models.yolo.world.train import on_pretrain_routine_end

    told: list[str] = []
    data = SimpleNamespace(data={"names": dict(enumerate(NAMES))})
    on_pretrain_routine_end(
        SimpleNamespace(
            test_loader=SimpleNamespace(dataset=data),
            ema=SimpleNamespace(ema=SimpleNamespace(set_classes=told.extend)),
        )
    )
    assert told == NAMES


def test_an_unknown_class_is_named(world: Any) -> None:
    with answered_from(orthonormal_bank(NAMES)), pytest.raises(ConfigError, match="'dent'"):
        world.set_classes(["dent"])


def test_without_the_bank_it_would_ask_for_clip(world: Any) -> None:
    with pytest.raises(AssertionError, match="asked for CLIP"):
        world.set_classes(NAMES)


def test_the_original_comes_back(no_clip: None) -> None:
    from ultralytics.nn.tasks import WorldModel

    original = WorldModel.get_text_pe

    def fail_inside() -> None:
        with answered_from(orthonormal_bank(NAMES)):
            assert WorldModel.get_text_pe is not original
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert WorldModel.get_text_pe is original


def test_a_moved_seam_is_an_error(no_clip: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.nn.tasks import WorldModel

    monkeypatch.setattr(WorldModel, "get_text_pe", lambda self, texts: None)
    with (
        pytest.raises(ToolkitError, match="unknown way"),
        answered_from(orthonormal_bank(NAMES)),
    ):
        pass

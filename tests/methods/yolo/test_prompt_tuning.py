"""Prompt tuning: what is frozen, what learns, and what comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from toolkit import ultralytics_env
from toolkit.methods.yolo import network
from toolkit.methods.yolo.prompt_tuning import (
    add_prompts,
    answer_from_prompts,
    frozen_parts,
    prompts_for_texts,
    tuned_bank,
)
from toolkit.methods.yolo.prompts import known_by_class, orthonormal_bank

NAMES = ["crack", "dirt", "scratch"]


@pytest.fixture(autouse=True)
def _prepared() -> None:
    ultralytics_env.prepare()


def _world(model: str = "yolo11n-world") -> Any:
    from ultralytics.nn.tasks import WorldModel

    return WorldModel(network.model_yaml(model), nc=3, verbose=False)


@pytest.mark.parametrize(
    ("model", "train", "tune_scale", "learning"),
    [
        ("yolo11n-world", "head", False, {"cv2", "cv3", "cv4"}),
        ("yolo11n-world", "prompts", False, {"prompts"}),
        ("yolo11n-world", "prompts", True, {"prompts", "cv4"}),
        ("yolov8s-worldv2", "prompts", True, {"prompts", "cv4"}),  # without its batch norms
    ],
)
def test_only_what_was_asked_for_learns(
    model: str, train: Any, tune_scale: bool, learning: set[str]
) -> None:
    world = _world(model)
    if train == "prompts":
        add_prompts(world, orthonormal_bank(NAMES), NAMES)
    parts = frozen_parts(network.model_yaml(model), train=train, tune_scale=tune_scale)
    # As Ultralytics' trainer decides.
    frozen = [f"model.{part}." for part in parts] + [".dfl"]
    free = [n for n, _ in world.named_parameters() if not any(f in n for f in frozen)]
    last = len(world.model) - 1
    assert {n.removeprefix(f"model.{last}.").split(".")[0] for n in free} == learning
    if train == "prompts":
        assert not any(".norm." in n for n in free)


def test_everything_learns_by_default() -> None:
    assert frozen_parts(network.model_yaml("yolo11n-world"), train="full", tune_scale=True) == []


def test_the_loss_reaches_the_embeddings_in_each_images_order() -> None:
    world, bank = _world(), orthonormal_bank(NAMES)
    add_prompts(world, bank, NAMES)
    asked = [["dirt", "crack", "scratch"], ["crack", "dirt", "scratch"]]
    vectors = prompts_for_texts(world, asked, NAMES)
    assert vectors.shape == (2, 3, 512)
    np.testing.assert_array_equal(vectors[0].detach().numpy(), bank.of(asked[0]))
    vectors[0, 0].sum().backward()
    assert world.prompts.grad[1].abs().sum() > 0
    assert world.prompts.grad[[0, 2]].abs().sum() == 0


def test_validation_sees_what_the_embeddings_have_become() -> None:
    world = _world()
    add_prompts(world, orthonormal_bank(NAMES), NAMES)
    with torch.no_grad():
        world.prompts += 1
    answer_from_prompts(world)
    assert torch.equal(world.txt_feats[0], world.prompts)
    assert not world.txt_feats.requires_grad


def test_the_tuned_bank_is_a_bank() -> None:
    world = _world()
    add_prompts(world, orthonormal_bank(NAMES), NAMES)
    with torch.no_grad():
        world.prompts *= 3  # banks hold directions
    bank = tuned_bank(world, NAMES, source="tuned on bottle")
    assert bank.source == "tuned on bottle"
    np.testing.assert_allclose(bank.of(NAMES), orthonormal_bank(NAMES).of(NAMES), atol=1e-6)


@pytest.mark.parametrize(
    ("phrases", "expected"),
    [
        (["chip", "gap", "broken"], ("chip", "gap")),  # all phrases are known
        (["broken", "chip"], ("broken",)),  # a tuned bank: its class
        (["chip"], ("chip", "gap")),  # neither: the missing phrase will be named
    ],
)
def test_a_class_of_its_own_stands_in_for_its_phrases(
    phrases: list[str], expected: tuple[str, ...]
) -> None:
    found = known_by_class(orthonormal_bank(phrases), {"broken": ("chip", "gap")})
    assert found == {"broken": expected}

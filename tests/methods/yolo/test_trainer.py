"""The trainers: trained class embeddings, frozen layers and bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from toolkit import ultralytics_env
from toolkit.errors import ConfigError
from toolkit.methods.yolo import network
from toolkit.methods.yolo.text_embeddings import orthonormal_embeddings
from toolkit.methods.yolo.world import frozen_parts

NAMES = ["crack", "dirt", "scratch"]


@pytest.fixture(autouse=True)
def _prepared() -> None:
    ultralytics_env.prepare()


def _trainer() -> Any:
    from toolkit.methods.yolo import trainer  # needs a prepared Ultralytics

    return trainer


def _world(model: str = "yolo11n-world") -> Any:
    return network.build_network(model, nc=3)


@pytest.mark.parametrize(
    ("model", "trainable", "train_logit_scale", "learning"),
    [
        ("yolo11n-world", "head", False, {"cv2", "cv3", "cv4"}),
        ("yolo11n-world", "prompts", False, {"prompts"}),
        ("yolo11n-world", "prompts", True, {"prompts", "cv4"}),
        ("yolov8s-worldv2", "prompts", True, {"prompts", "cv4"}),  # without its batch norms
    ],
)
def test_only_what_was_asked_for_learns(
    model: str, trainable: Any, train_logit_scale: bool, learning: set[str]
) -> None:
    world = _world(model)
    if trainable == "prompts":
        _trainer().add_embeddings(world, orthonormal_embeddings(NAMES), NAMES)
    parts = frozen_parts(
        network.model_yaml(model), trainable=trainable, train_logit_scale=train_logit_scale
    )
    # As Ultralytics' trainer decides.
    frozen = [f"model.{part}." for part in parts] + [".dfl"]
    free = [n for n, _ in world.named_parameters() if not any(f in n for f in frozen)]
    last = len(world.model) - 1
    assert {n.removeprefix(f"model.{last}.").split(".")[0] for n in free} == learning
    if trainable == "prompts":
        assert not any(".norm." in n for n in free)


def test_everything_learns_by_default() -> None:
    assert (
        frozen_parts(network.model_yaml("yolo11n-world"), trainable="full", train_logit_scale=True)
        == []
    )


def test_the_loss_reaches_the_embeddings_in_each_images_order() -> None:
    world, bank = _world(), orthonormal_embeddings(NAMES)
    _trainer().add_embeddings(world, bank, NAMES)
    asked = [["dirt", "crack", "scratch"], ["crack", "dirt", "scratch"]]
    vectors = _trainer().embeddings_for_texts(world, asked, NAMES)
    assert vectors.shape == (2, 3, 512)
    np.testing.assert_array_equal(vectors[0].detach().numpy(), bank.of(asked[0]))
    vectors[0, 0].sum().backward()
    assert world.prompts.grad[1].abs().sum() > 0
    assert world.prompts.grad[[0, 2]].abs().sum() == 0


def test_validation_sees_what_the_embeddings_have_become() -> None:
    world = _world()
    _trainer().add_embeddings(world, orthonormal_embeddings(NAMES), NAMES)
    with torch.no_grad():
        world.prompts += 1
    _trainer().use_embeddings(world)
    assert torch.equal(world.txt_feats[0], world.prompts)
    assert not world.txt_feats.requires_grad


@pytest.mark.parametrize(
    ("setting", "device", "native", "expected"),
    [
        ("auto", "cpu", True, True),
        ("auto", "cpu", False, False),  # emulated, it would be slower than float32
        ("auto", "cuda:0", True, False),
        ("float32", "cpu", True, False),
        ("bfloat16", "cpu", False, True),  # as asked
    ],
)
def test_when_it_is_used(
    setting: str, device: str, native: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trainer(), "computes_bfloat16", lambda device: native)
    assert _trainer().use_bfloat16(setting, device=device) is expected


def test_on_a_gpu_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="amp=true"):
        _trainer().use_bfloat16("bfloat16", device="cuda")


@pytest.mark.parametrize("model", ["yolo11n", "yolo11n-world"])
def test_the_loss_is_near_that_of_float32_and_gets_float32(model: str) -> None:
    from ultralytics.cfg import get_cfg

    torch.manual_seed(0)
    world = network.is_world(model)
    net = network.build_network(model, nc=2)
    net.args = get_cfg()
    net.train()
    batch = {
        "img": torch.rand(2, 3, 64, 64),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[0.0], [1.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.6, 0.3, 0.5]]),
    }
    if world:
        batch["txt_feats"] = torch.nn.functional.normalize(torch.randn(2, 2, 512), dim=-1)
    exact, _ = net(batch)
    wrapped = _trainer().InBfloat16(net)
    seen: list[torch.dtype] = []
    original = net.loss

    def loss(batch: Any, preds: Any) -> Any:
        seen.append(preds["scores"].dtype)
        return original(batch, preds)

    net.loss = loss
    near, _ = wrapped(batch)
    assert seen == [torch.float32]
    assert abs(near.sum().item() / exact.sum().item() - 1) < 0.1
    near.sum().backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    assert gradients
    assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in gradients)

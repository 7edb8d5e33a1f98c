"""bfloat16: when it is used, that the loss is near the exact one, and what reaches the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from toolkit import ultralytics_env
from toolkit.errors import ConfigError
from toolkit.methods.yolo import network, precision


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
    monkeypatch.setattr(precision, "_is_native", lambda: native)
    assert precision.use_bfloat16(setting, device=device) is expected


def test_on_a_gpu_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="amp=true"):
        precision.use_bfloat16("bfloat16", device="cuda")


@pytest.mark.parametrize("model", ["yolo11n", "yolo11n-world"])
def test_the_loss_is_near_that_of_float32_and_gets_float32(model: str) -> None:
    ultralytics_env.prepare()
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel, WorldModel

    torch.manual_seed(0)
    world = network.is_world(model)
    net: Any = (WorldModel if world else DetectionModel)(
        network.model_yaml(model), nc=2, verbose=False
    )
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
    wrapped = precision.InBfloat16(net)
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

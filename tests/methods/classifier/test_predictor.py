"""Predictions do not depend on the batch, and ONNX agrees with them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.runtime.parity import check_onnx
from toolkit.d4 import ALL
from toolkit.data.layouts import load_dataset
from toolkit.methods.classifier.checkpoint import ModelInfo
from toolkit.methods.classifier.network import build_network
from toolkit.methods.classifier.predictor import ClassifierPredictor

CLASSES = ("good", "a", "b", "c")


def _predictor(*, tta: bool) -> ClassifierPredictor:
    torch.manual_seed(0)
    model, _ = build_network("mobilenetv3_small_050", 4, pooled_layers=("blocks.2",))
    info = ModelInfo("mobilenetv3_small_050", CLASSES, 32, ("blocks.2",), tta)
    return ClassifierPredictor(model.eval(), info)


def _images(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (40 + i, 50, 3), np.uint8) for i in range(count)]


def test_predictions_do_not_depend_on_the_batch() -> None:
    predictor, images = _predictor(tta=False), _images(3)
    together = predictor.predict(images)
    for image, prediction in zip(images, together, strict=True):
        assert predictor.predict([image]) == [prediction]
        shares = prediction.class_probabilities or {}
        assert tuple(shares) == CLASSES
        assert sum(shares.values()) == pytest.approx(1)
        defect = sum(p for name, p in shares.items() if name != "good")
        assert prediction.score == pytest.approx(math.log(defect / shares["good"]), abs=1e-6)
    assert predictor.predict([]) == []


def test_tta_averages_over_all_flips_and_turns() -> None:
    (image,) = _images(1)
    image = image[:40, :40]
    plain, tta = _predictor(tta=False), _predictor(tta=True)
    each = [plain.logits(one.apply(image)) for one in ALL]
    torch.testing.assert_close(tta.logits(image), torch.stack(each).mean(0), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(each[0], each[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "layers", "tta"),
    [
        ("mobilenetv3_small_050", (), False),
        ("resnet18", ("layer2", "layer4"), False),
        ("tf_efficientnet_lite0", ("blocks.3",), True),  # flips and turns inside the graph
    ],
)
def test_onnx_agrees_with_the_run(
    tmp_path: Path, sample_dir: Path, network: str, layers: tuple[str, ...], tta: bool
) -> None:
    torch.manual_seed(0)
    model, _ = build_network(network, 4, pooled_layers=layers)
    info = ModelInfo(network, CLASSES, 64, layers, tta)
    samples = load_dataset(sample_dir).samples[:2]
    check_onnx(ClassifierPredictor(model.eval(), info), samples, tmp_path)

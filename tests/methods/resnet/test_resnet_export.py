"""ONNX says what the classifier says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.data.images import read_rgb
from toolkit.data.layouts import read_dataset
from toolkit.methods.resnet.checkpoint import ModelCard
from toolkit.methods.resnet.export import export_onnx
from toolkit.methods.resnet.image_cache import resized
from toolkit.methods.resnet.network import build_classifier


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "layers", "views"),
    [
        ("mobilenetv3_small_050", (), 1),
        ("resnet18", ("layer2", "layer4"), 1),
        ("tf_efficientnet_lite0", ("blocks.3",), 8),  # turned and mirrored inside the graph
    ],
)
def test_onnx_says_what_the_run_says(
    tmp_path: Path, sample_dir: Path, network: str, layers: tuple[str, ...], views: int
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = build_classifier(network, 4, pooled_layers=layers).eval()
    samples = read_dataset(sample_dir).samples[:2]
    card = ModelCard(network, ("good", "a", "b", "c"), 64, layers, views)
    exported = export_onnx(model, card, tmp_path, samples)
    assert exported.max_difference < 1e-3
    assert {f.name for f in tmp_path.iterdir()} == set(exported.files)
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["classes"] == ["good", "a", "b", "c"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    logits = []
    for sample in samples:
        pixels = resized(read_rgb(sample.image), 64).transpose(2, 0, 1)[None] / np.float32(255)
        logits.append(session.run(["logits"], {"images": pixels.astype(np.float32)})[0])
    assert logits[0].shape == (1, 4)
    assert not np.allclose(logits[0], logits[1], atol=1e-4)  # the input matters

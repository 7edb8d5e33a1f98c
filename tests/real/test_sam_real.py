"""The whole SAM path on a real bottle, against Meta's own predictor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.data.images import read_rgb
from toolkit.data.layouts import load_dataset
from toolkit.metrics.masks import mask_iou

pytestmark = [pytest.mark.slow, pytest.mark.real]


@pytest.fixture
def mobile_sam(real_home: Path):
    from toolkit.weights.fetch import find
    from toolkit.weights.mobile_sam_network import build_mobile_sam

    path = find("mobile-sam")
    if path is None:
        pytest.skip("MobileSAM is not here; fetch it with: toolkit weights fetch mobile-sam")
    return build_mobile_sam(path)


def test_box_and_click_masks_equal_those_of_the_stock_predictor(
    mobile_sam, bottle_dir: Path, tmp_path: Path
) -> None:
    from segment_anything import SamPredictor

    from toolkit.methods.sam.batched_decoder import decode
    from toolkit.methods.sam.embeddings import EmbeddingCache
    from toolkit.methods.sam.prompts import centre_pixel
    from toolkit.methods.sam.targets import region_targets
    from toolkit.runtime.prompts import box_prompt, click_prompt
    from toolkit.runtime.segmentation import scale_to_input, to_image_size

    sample = load_dataset(bottle_dir).by_id["test/broken_large/000.png"]
    (target,) = region_targets([sample])
    assert target.region is not None
    predictor = SamPredictor(mobile_sam)
    predictor.set_image(read_rgb(sample.image))
    x0, y0, x1, y1 = target.box_xyxy
    click = centre_pixel(target.region.mask(target.size_wh))
    stock = [
        predictor.predict(box=np.array([x0, y0, x1 - 1, y1 - 1]), multimask_output=False)[0][0],
        predictor.predict(
            point_coords=np.array([click]), point_labels=np.array([1]), multimask_output=False
        )[0][0],
    ]
    prompts = [box_prompt(target.box_xyxy), click_prompt(*click)]
    # In float32; and in bfloat16 where that is native and through float16 on disk, as in training.
    cached = EmbeddingCache(mobile_sam, "e", tmp_path).get(sample).float()[None]
    for embedding, least in ((predictor.get_image_embedding(), 0.995), (cached, 0.97)):
        with torch.no_grad():
            decoded = decode(
                mobile_sam, embedding, prompts, [scale_to_input(target.size_wh)] * 2
            ).low_res_logits()
        for low, theirs in zip(decoded[:, 0], stock, strict=True):
            mine = to_image_size(low.numpy(), target.size_wh) > 0
            iou = mask_iou(mine, theirs)
            assert isinstance(iou, float)
            assert iou > least


def test_ultralytics_segments_a_box_as_we_do_from_an_exported_checkpoint(
    mobile_sam, bottle_dir: Path, tmp_path: Path
) -> None:
    from toolkit import ultralytics_env

    ultralytics_env.prepare()
    from ultralytics import SAM

    from toolkit.methods.sam.embeddings import EmbeddingCache
    from toolkit.methods.sam.evaluate import Evaluated, predict_kinds
    from toolkit.methods.sam.export import save_whole
    from toolkit.methods.sam.targets import region_targets
    from toolkit.methods.sam.tta import Decoders

    sample = load_dataset(bottle_dir).by_id["test/contamination/002.png"]
    (target,) = region_targets([sample])
    save_whole(mobile_sam, tmp_path / "tuned_mobile_sam.pt")
    x0, y0, x1, y1 = target.box_xyxy
    (result,) = SAM(str(tmp_path / "tuned_mobile_sam.pt")).predict(
        str(sample.image), bboxes=[x0, y0, x1 - 1, y1 - 1], verbose=False
    )
    cache = EmbeddingCache(mobile_sam, "e", tmp_path)
    ours, _ = predict_kinds(Evaluated(Decoders(mobile_sam)), cache, target, ["box"])["box"]
    iou = mask_iou(result.masks.data[0].cpu().numpy().astype(bool), ours)
    assert isinstance(iou, float)
    assert iou > 0.95


def test_the_export_of_the_real_model_agrees_with_it_on_real_images(
    mobile_sam, bottle_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    from toolkit.methods.sam.export import export_sam

    by_id = load_dataset(bottle_dir).by_id
    samples = [by_id["test/broken_large/000.png"], by_id["test/good/000.png"]]
    exported = export_sam(mobile_sam, "mobile-sam", tmp_path, samples)
    assert exported.max_difference < 1e-3

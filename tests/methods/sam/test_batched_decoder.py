"""The batched decoder against the stock one, which takes one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolkit.methods.sam.batched_decoder import decode
from toolkit.methods.sam.prompts import with_click
from toolkit.runtime.prompts import Prompt, box_prompt, click_prompt
from toolkit.runtime.segmentation import scale_to_input, to_image_size


def _stock(sam, embedding: torch.Tensor, prompt: Prompt, scale: float, mask):
    labels = torch.from_numpy(prompt.labels)
    coords = torch.from_numpy(prompt.coords) * scale
    corners = labels >= 2
    real = (labels == 0) | (labels == 1)
    boxes = coords[corners].reshape(1, 4) if corners.any() else None
    points = (coords[real][None], labels[real][None]) if real.any() else None
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=mask)
    return sam.mask_decoder.predict_masks(
        image_embeddings=embedding[None],
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )


@pytest.mark.parametrize("with_mask", [False, True])
def test_one_call_for_several_images_equals_one_call_each(small_sam, with_mask: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(3, 256, 64, 64, generator=generator)
    # a box, a click, a click whose image has another scale
    prompts = [box_prompt((100, 120, 300, 400)), click_prompt(50, 60), click_prompt(10, 5)]
    if with_mask:
        prompts = [with_click(p, 30 + i, 40, positive=bool(i % 2)) for i, p in enumerate(prompts)]
    scales = [1024 / 900, 1024 / 900, 1024 / 256]
    masks = torch.randn(3, 1, 256, 256, generator=generator) if with_mask else None
    with torch.no_grad():
        together = decode(small_sam, embeddings, prompts, scales, masks)
        ours = together.low_res_logits(), together.iou_predictions()
        for i in range(3):
            mask = None if masks is None else masks[i : i + 1]
            logits, quality = _stock(small_sam, embeddings[i], prompts[i], scales[i], mask)
            torch.testing.assert_close(ours[0][i], logits[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(ours[1][i], quality[0], atol=1e-4, rtol=1e-4)


def test_many_prompts_of_one_image_share_its_embedding(small_sam) -> None:
    embedding = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(1))
    prompts = [box_prompt((100, 120, 300, 400)), click_prompt(50, 60), click_prompt(10, 5)]
    with torch.no_grad():
        shared = decode(small_sam, embedding, prompts, [1.0] * 3)
        apart = decode(small_sam, embedding.expand(3, -1, -1, -1), prompts, [1.0] * 3)
    torch.testing.assert_close(shared.iou_predictions(), apart.iou_predictions())
    chosen = torch.tensor([True, False, True])
    torch.testing.assert_close(
        shared.low_res_logits(chosen), apart.low_res_logits()[chosen], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("size_wh", [(900, 900), (640, 480), (300, 1024)])
def test_masks_come_back_at_image_size_as_the_stock_model_scales_them(
    small_sam, size_wh: tuple[int, int]
) -> None:
    logits = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(2))
    width, height = size_wh
    scale = scale_to_input(size_wh)
    inner = (int(height * scale + 0.5), int(width * scale + 0.5))
    expected = small_sam.postprocess_masks(logits, inner, (height, width))
    found = torch.from_numpy(to_image_size(logits[0, 0].numpy(), size_wh))
    # OpenCV interpolates with other roundings.
    torch.testing.assert_close(found, expected[0, 0], atol=2e-3, rtol=0)


def test_gradients_reach_the_decoder(small_sam) -> None:
    embeddings = torch.zeros(1, 256, 64, 64)
    parameter = small_sam.mask_decoder.mask_tokens.weight
    parameter.requires_grad_(True)
    decoded = decode(small_sam, embeddings, [click_prompt(1, 1)], [1.0])
    decoded.low_res_logits().sum().backward()
    assert parameter.grad is not None
    assert np.isfinite(parameter.grad.numpy()).all()
    parameter.grad = None


def test_a_coarser_grid_gives_coarser_masks_of_the_same_place(small_sam) -> None:
    coarse = torch.randn(1, 256, 32, 32, generator=torch.Generator().manual_seed(3))
    embeddings = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    with torch.no_grad():
        fine = decode(small_sam, embeddings, [click_prompt(500, 300)], [1.0]).low_res_logits()
        small = decode(small_sam, coarse, [click_prompt(500, 300)], [1.0]).low_res_logits()
    assert small.shape == (1, 4, 128, 128)
    # The mean over the pixels of each coarse token.
    tokens = [torch.nn.functional.avg_pool2d(x, s)[0, 0] for x, s in ((fine, 8), (small, 4))]
    both = torch.stack([t.flatten() for t in tokens])
    assert torch.corrcoef(both)[0, 1] > 0.9


def test_bfloat16_rounds_and_no_more(small_sam) -> None:
    embeddings = torch.randn(2, 256, 64, 64, generator=torch.Generator().manual_seed(4))
    prompts = [box_prompt((100, 120, 300, 400)), click_prompt(50, 60)]
    with torch.no_grad():
        exact = decode(small_sam, embeddings, prompts, [1.0, 1.0]).low_res_logits()
        with torch.autocast("cpu", torch.bfloat16):
            rounded = decode(small_sam, embeddings, prompts, [1.0, 1.0]).low_res_logits()
    assert rounded.dtype == torch.bfloat16
    error = (rounded.float() - exact).abs().mean() / exact.std()
    assert error < 0.05

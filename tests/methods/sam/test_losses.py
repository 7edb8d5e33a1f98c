from __future__ import annotations

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from toolkit.methods.sam.losses import dice_loss, low_res_iou, mask_loss


def _case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 16, 16, generator=generator)
    return logits, (torch.rand(3, 16, 16, generator=generator) > 0.7).float()


@pytest.mark.parametrize(
    ("logit", "target", "expected"),
    [
        (50.0, 1.0, 0.0),  # perfect
        (-50.0, 1.0, 1 - 1 / 257),  # nothing found of 256 pixels; one is added on both sides
        (-50.0, 0.0, 0.0),  # nothing there, nothing found
    ],
)
def test_dice_loss_of_clear_cases(logit: float, target: float, expected: float) -> None:
    shape = (1, 16, 16)
    loss = dice_loss(torch.full(shape, logit), torch.full(shape, target))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_mask_loss_weighs_focal_twenty_to_one() -> None:
    logits, target = _case(1)
    focal = sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2).mean(dim=(-2, -1))
    expected = 20 * focal + dice_loss(logits, target)
    torch.testing.assert_close(mask_loss(logits, target), expected)


@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_an_empty_mask_costs_no_less_for_a_small_region_than_for_a_larger_one(side: int) -> None:
    def empty(area_side: int) -> float:
        target = torch.zeros(1, 256, 256)
        target[:, 100 : 100 + area_side, 50 : 50 + area_side] = 1
        return mask_loss(torch.full_like(target, -4.0), target).item()

    assert empty(side) > empty(16)


def test_a_region_of_one_pixel_is_learned_from_an_empty_mask() -> None:
    target = torch.zeros(1, 64, 64)
    target[0, 20, 30] = 1
    logits = torch.full_like(target, -6.0).requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        mask_loss(logits, target).sum().backward()
        optimizer.step()
    assert torch.equal(logits > 0, target > 0.5)


def test_a_good_place_has_a_finite_loss() -> None:
    assert torch.isfinite(mask_loss(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8))).all()


def test_iou_counts_pixels() -> None:
    logits = torch.tensor([[[1.0, 1.0, -1.0, -1.0]]])
    target = torch.tensor([[[1.0, 0.0, 1.0, 0.0]]])
    assert low_res_iou(logits, target).item() == pytest.approx(1 / 3)
    assert low_res_iou(-torch.ones(1, 1, 4), torch.zeros(1, 1, 4)).item() == 1

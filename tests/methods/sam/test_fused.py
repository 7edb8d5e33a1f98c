from __future__ import annotations

import pytest
import torch
from torch import nn

from toolkit.methods.sam.fused import for_encoding


class _Pair(nn.Sequential):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(5)
        nn.init.uniform_(self.bn.weight, 0.5, 2.0)
        nn.init.normal_(self.bn.bias)
        self.bn.running_mean.normal_()
        self.bn.running_var.uniform_(0.5, 2.0)


class _Sam(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = encoder
        self.mask_decoder = nn.Linear(2, 2)


def test_without_its_batch_norms_the_encoder_says_the_same() -> None:
    torch.manual_seed(0)
    sam = _Sam(nn.Sequential(_Pair(), nn.GELU())).eval()
    names = set(sam.state_dict())
    fused = for_encoding(sam)
    picture = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(
        fused.image_encoder(picture), sam.image_encoder(picture), rtol=1e-5, atol=1e-5
    )
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert fused.mask_decoder is sam.mask_decoder
    assert set(sam.state_dict()) == names  # what is saved and exported keeps SAM's names


def test_mobile_sam_encodes_the_same(small_sam) -> None:
    torch.manual_seed(0)
    small_sam.image_encoder.eval()  # makes the biases anew, of which other tests may have left none
    block = small_sam.image_encoder.layers[1].blocks[0]
    fused = for_encoding(small_sam).image_encoder.layers[1].blocks[0]
    assert type(fused.attn) is not type(block.attn)
    tokens = torch.randn(3, 49, 128)
    biases = torch.randn_like(block.attn.ab)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for attention in (block.attn, fused.attn.original):
            patch.setattr(attention, "ab", biases)
        torch.testing.assert_close(fused.attn(tokens), block.attn(tokens), rtol=1e-4, atol=1e-5)


def test_an_encoder_without_batch_norms_is_used_as_it_is() -> None:
    sam = _Sam(nn.Sequential(nn.Conv2d(3, 5, 3), nn.GELU()))
    assert for_encoding(sam) is sam

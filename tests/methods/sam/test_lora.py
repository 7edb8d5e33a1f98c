"""Low-rank adaptation: starts at nothing, learns, and leaves a plain SAM."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from toolkit.data.types import Sample
from toolkit.errors import WeightsError
from toolkit.methods.sam.embeddings import LiveEmbeddings, embed
from toolkit.methods.sam.lora import LoraLinear, add_lora, lora_layers, lora_state
from toolkit.methods.sam.model import load_tuned, save_tuned
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.targets import region_targets
from toolkit.methods.sam.train import BEST, Material, train
from toolkit.runs.run import Run


def test_an_addition_starts_at_nothing_and_freezes_the_layer() -> None:
    linear = nn.Linear(6, 9)
    adapted = LoraLinear(linear, rank=2)
    x = torch.randn(4, 6)
    assert torch.equal(adapted(x), linear(x))
    assert {n for n, p in adapted.named_parameters() if p.requires_grad} == {"lora_a", "lora_b"}


def test_every_attention_of_both_encoders_is_adapted(small_sam, small_vit) -> None:
    import copy

    mobile = copy.deepcopy(small_sam)
    add_lora(mobile)
    assert len(lora_layers(mobile)) == 10  # TinyViT-5M has 2 + 6 + 2 blocks with attention
    vit = small_vit()
    add_lora(vit)
    assert len(lora_layers(vit)) == 1


def test_an_encoder_without_attention_is_refused() -> None:
    holder = nn.Module()
    holder.image_encoder = nn.Conv2d(3, 3, 1)
    with pytest.raises(WeightsError, match="no layer named qkv"):
        add_lora(holder)  # type: ignore[arg-type]


def test_an_addition_for_another_encoder_is_one_line(small_vit, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    vit = small_vit()
    add_lora(vit)
    save_tuned(vit, tmp_path / "d.safetensors")
    state = load_file(tmp_path / "d.safetensors")
    renamed = {name.replace("blocks.0", "blocks.7"): tensor for name, tensor in state.items()}
    save_file(renamed, tmp_path / "d.safetensors")
    with pytest.raises(WeightsError, match="another image encoder"):
        load_tuned(small_vit(), tmp_path / "d.safetensors")


@pytest.mark.slow
def test_training_adapts_the_encoder_and_the_file_makes_a_plain_sam(
    small_vit, tmp_path: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 99, (64, 64, 3), np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    picture[20:40, 10:50], mask[20:40, 10:50] = 255, 255
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    cv2.imwrite(str(tmp_path / "a_mask.png"), mask)
    sample = Sample(
        id="a", image=tmp_path / "a.png", label="hole", masks=(tmp_path / "a_mask.png",)
    )
    settings = SamSettings(
        train="lora", epochs=2, views=1, batch=1, negatives=0, correction_share=1, coarse=0.5,
        lr=1e-3, ema=0.0, validate_every=2,
    )  # fmt: skip
    run = Run.create(tmp_path, method="sam", settings={}, split={}, data={}, name="x")
    sam = small_vit()
    for parameter in sam.parameters():
        parameter.requires_grad_(False)
    untouched = embed(sam, picture)
    frozen = sam.image_encoder.blocks[0].attn.qkv.weight.clone()
    add_lora(sam)
    targets = region_targets([sample])
    data = Material(targets=targets, good=[], val=[])
    train(sam, None, data, settings, run)  # type: ignore[arg-type]
    (layer,) = lora_layers(sam)
    assert torch.equal(layer.linear.weight, frozen)
    assert layer.lora_b.abs().max() > 0
    assert set(lora_state(sam)) == {
        f"image_encoder.blocks.0.attn.qkv.lora_{name}" for name in ("a", "b")
    }
    adapted = embed(sam, picture)
    assert not torch.equal(adapted, untouched)

    small_vit.made.clear()  # the same random numbers again
    plain = small_vit()
    names = set(plain.state_dict())
    load_tuned(plain, run.weights / BEST)
    assert set(plain.state_dict()) == names
    with torch.no_grad():
        one, other = (LiveEmbeddings(model).get(sample) for model in (plain, sam))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)

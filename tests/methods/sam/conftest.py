from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def small_sam():
    """A SAM with random weights; its decoder has the real shape."""
    from toolkit.weights.mobile_sam_network import empty_mobile_sam

    torch.manual_seed(0)
    return empty_mobile_sam().eval()


@pytest.fixture
def small_vit():
    """Meta's own builder with an image encoder of one narrow block; `made` lists its models."""
    from segment_anything.build_sam import _build_sam

    def build(checkpoint=None):
        torch.manual_seed(len(build.made))
        sam = _build_sam(
            encoder_embed_dim=16, encoder_depth=1, encoder_num_heads=2,
            encoder_global_attn_indexes=[0], checkpoint=checkpoint,
        )  # fmt: skip
        build.made.append(sam)
        return sam

    build.made = []
    return build

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def small_sam():
    """A SAM with random weights; its decoder has the real shape."""
    from toolkit.weights.mobile_sam_network import empty_mobile_sam

    torch.manual_seed(0)
    return empty_mobile_sam().eval()

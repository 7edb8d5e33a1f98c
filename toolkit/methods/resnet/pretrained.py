"""Put pretrained weights into a classifier's backbone, and say where they came from."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import WeightsError
from toolkit.methods.resnet.network import TORCHVISION, Classifier
from toolkit.weights.fetch import fetch
from toolkit.weights.lite0 import LITE0_NAME, lite0_state_dict
from toolkit.weights.registry import load as registry

if TYPE_CHECKING:
    from torch import Tensor

VERSIONS = {"IMAGENET1K_V1": "v1", "IMAGENET1K_V2": "v2"}


@dataclass(frozen=True)
class Origin:
    """Where the first weights of a network came from.

    Attributes:
        weights: a name for the leaderboard, `none` for a start from scratch.
        source: in a few words, for `run.json`.
        reason: why they are not the ones that were wished for; empty if they are.
    """

    weights: str
    source: str
    reason: str = ""


def load_pretrained(model: Classifier, *, network: str, weights: str) -> Origin:
    """Fill the backbone with the weights that a setting names.

    Args:
        model: changed in place; its head stays as it is.
        network: name of the network.
        weights: `IMAGENET1K_V1`, `IMAGENET1K_V2`, `none`, a file, `auto` or `auto:` and one of
            the first two.

    Raises:
        WeightsError: weights that were named cannot be had, or belong to another network. With
            `auto` the backbone stays random, and the returned origin says why.
    """
    if weights == "none":
        return Origin("none", "from scratch, as asked")
    if weights == "auto":
        return _load_auto(model, network, "IMAGENET1K_V1")
    if weights.removeprefix("auto:") in VERSIONS and weights.startswith("auto:"):
        return _load_auto(model, network, weights.removeprefix("auto:"))
    if weights in VERSIONS:
        return _load_imagenet(model, network, weights)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"weights={weights}: neither a file nor one of auto, none, {', '.join(VERSIONS)}, "
            "auto:IMAGENET1K_V2"
        )
    _fill(model, read_state_dict(path), source=str(path))
    return Origin(path.name, f"file {path}")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a plain state dict (`.pth`, `.pt`) or a `.safetensors` file; nothing in it is run.

    Raises:
        WeightsError: the file is damaged, or holds anything but tensors by name.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: not a plain state dict; save model.state_dict() and name that file"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint; fetch it again") from error
    if not isinstance(content, dict) or not all(
        isinstance(v, torch.Tensor) for v in content.values()
    ):
        raise WeightsError(
            f"{path}: not a plain state dict; save model.state_dict() and name that file"
        )
    return content


def _load_auto(model: Classifier, network: str, version: str) -> Origin:
    try:
        return _load_imagenet(model, network, version)
    except WeightsError as error:
        return Origin("none", f"from scratch, {version} out of reach", str(error))


def _load_imagenet(model: Classifier, network: str, version: str) -> Origin:
    if network == LITE0_NAME and version == "IMAGENET1K_V1":
        _fill(model, lite0_state_dict(), source=LITE0_NAME)
        return Origin("ImageNet-1k", f"{LITE0_NAME}, from the installed package")
    name = f"{network}-{VERSIONS[version]}"
    known = [entry for entry in registry() if entry.startswith((*TORCHVISION, LITE0_NAME))]
    if name not in known:
        raise WeightsError(
            f"weights={version}: none are registered for {network} (there are "
            f"{', '.join(known)}); name a file with its state dict, or --weights none"
        )
    path = fetch(name)
    _fill(model, read_state_dict(path), source=str(path))
    return Origin(version, f"{name}, {path.name}")


def _fill(model: Classifier, state: dict[str, Tensor], *, source: str) -> None:
    """Copy a state dict into the backbone; entries that the backbone lacks (its old head) are left.

    Raises:
        WeightsError: a tensor of the backbone is missing or has another shape.
    """
    # Checkpoints of this project hold backbone and head.
    state = {
        name.removeprefix("backbone.").removeprefix("maps."): tensor
        for name, tensor in state.items()
    }
    wanted = model.network.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            raise WeightsError(f"{source}: weights of another network ({name} is missing)")
        if state[name].shape != tensor.shape:
            raise WeightsError(
                f"{source}: weights of another network ({name} is {tuple(state[name].shape)}, "
                f"not {tuple(tensor.shape)})"
            )
    model.network.load_state_dict({name: state[name] for name in wanted})

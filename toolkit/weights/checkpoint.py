"""Read tensors out of checkpoint files, and start one network from another's weights."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import ultralytics_env
from toolkit.errors import WeightsError
from toolkit.weights.files import file_sha256
from toolkit.weights.registry import trusted_hashes

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class WarmStartReport:
    """What `warm_start` did.

    Attributes:
        copied: number of tensors of the network that were filled.
        total: number of tensors of the network, buffers included.
        skipped: names of the tensors of the network that kept their values.
    """

    copied: int
    total: int
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.copied} of {self.total} tensors"


def warm_start(model: nn.Module, checkpoint_path: Path, *, trust: bool = False) -> WarmStartReport:
    """Copy every tensor of a checkpoint that fits a network by name and shape into it.

    Args:
        model: changed in place; its types and devices stay.
        checkpoint_path: a state dict, or an Ultralytics checkpoint (the EMA model if it has one).
        trust: see `load_tensors`.

    Raises:
        WeightsError: the file cannot be read, is not trusted, or no tensor fits.
    """
    import torch

    source = load_tensors(checkpoint_path, trust=trust)
    target = model.state_dict()
    fitting = [
        name
        for name, tensor in target.items()
        if name in source and source[name].shape == tensor.shape
    ]
    if not fitting:
        raise WeightsError(
            f"{checkpoint_path}: none of its {len(source)} tensors fits the network's "
            f"{len(target)}; take a checkpoint of the same family"
        )
    with torch.no_grad():
        for name in fitting:
            # state_dict() shares storage with the network, so this writes into it.
            target[name].copy_(source[name])
    skipped = tuple(name for name in target if name not in set(fitting))
    return WarmStartReport(copied=len(fitting), total=len(target), skipped=skipped)


def load_tensors(path: Path, *, trust: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU, floats as float32.

    Plain state dicts are read without running anything. Ultralytics checkpoints are pickled
    networks, and reading one runs whatever its author put inside: that is done only if the file's
    sha256 is in `weights/registry.yaml`, or if the caller trusts it.

    Args:
        path: a state dict, a dict that holds one under `model` or `state_dict`, or an Ultralytics
            checkpoint.
        trust: read a pickled network although its hash is not in the registry.

    Raises:
        WeightsError: the file is missing, unreadable or not trusted.
    """
    import torch

    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint; see: toolkit weights list")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        content = _load_pickled_network(path, trust=trust)
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint; fetch it again") from error
    return _state_dict(path, content)


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and values of tensors, as 64 digits.

    Unlike the bytes of a saved file it does not depend on the version of torch or on the order.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        kind = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name} {kind} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _load_pickled_network(path: Path, *, trust: bool) -> object:
    import torch

    if not trust and file_sha256(path) not in trusted_hashes():
        raise WeightsError(
            f"{path}: a pickled network can run code when it is read, and this file is not in "
            "weights/registry.yaml; if you know its author, repeat with --trust"
        )
    ultralytics_env.prepare()
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, EOFError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint; fetch it again") from error
    except (ImportError, AttributeError) as error:
        raise WeightsError(f"{path}: needs a library that is not here ({error})") from error


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    import torch

    if isinstance(content, dict):
        for key in ("ema", "model", "state_dict"):
            if isinstance(content.get(key), torch.nn.Module | dict):
                content = content[key]
                break
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds no tensors; expected a state dict or a YOLO checkpoint")
    state = {
        str(name): value.float() if value.is_floating_point() else value
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }
    if not state:
        raise WeightsError(f"{path}: holds no tensors; expected a state dict or a YOLO checkpoint")
    return state

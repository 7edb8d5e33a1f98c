"""Checkpoints of a run: `best.safetensors` to predict, `last.pt` to continue training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from toolkit.errors import WeightsError
from toolkit.files import atomic_write
from toolkit.methods.classifier.network import ClassificationNetwork, build_network
from toolkit.weights.checkpoint import tensors_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

BEST, LAST = "best.safetensors", "last.pt"


@dataclass(frozen=True)
class ModelInfo:
    """What belongs to the tensors of a model.

    Attributes:
        network: name of the network.
        classes: class names in the order of the logits, `good` first.
        image_size: side in pixels that images are resized to.
        pooled_layers: layers whose maps are the features; empty for the network's own output.
        tta: whether predictions are averaged over flips and quarter turns.
        validation: epoch and validation figures.
    """

    network: str
    classes: tuple[str, ...]
    image_size: int
    pooled_layers: tuple[str, ...] = ()
    tta: bool = False
    validation: Mapping[str, Any] = field(default_factory=dict)


def write_best(path: Path, tensors: Mapping[str, Tensor], info: ModelInfo) -> None:
    """Write a model into one safetensors file, whose header holds the rest, and a checksum."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"model": json.dumps(asdict(info), sort_keys=True), "sha256": tensors_sha256(plain)}
    with atomic_write(path) as temporary:
        save_file(plain, temporary, metadata=header)


def read_best(path: Path) -> tuple[dict[str, Tensor], ModelInfo]:
    """Read what `write_best` wrote.

    Raises:
        WeightsError: the file is missing, damaged, or holds values that are not finite.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"{path}: no trained classifier; train it, or continue with --resume")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
        info = json.loads(header["model"])
        info |= {key: tuple(info[key]) for key in ("classes", "pooled_layers")}
        if tensors_sha256(tensors) != header["sha256"]:
            raise ValueError("its tensors differ from its checksum")
        if any(t.is_floating_point() and not t.isfinite().all() for t in tensors.values()):
            raise ValueError("it holds values that are not finite")
        return tensors, ModelInfo(**info)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise WeightsError(f"{path}: damaged checkpoint ({message}); train again") from error


def load_best(weights: Path) -> tuple[ClassificationNetwork, ModelInfo]:
    """Build the chosen model of a run, in evaluation mode.

    Raises:
        WeightsError: its weights are missing, damaged, or of another network.
    """
    tensors, info = read_best(weights / BEST)
    model, _ = build_network(info.network, len(info.classes), pooled_layers=info.pooled_layers)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        message = str(error).splitlines()[0]
        raise WeightsError(
            f"{weights / BEST}: does not fit {info.network} ({message}); train again"
        ) from error
    return model.eval(), info


def write_last(path: Path, content: Mapping[str, Any]) -> None:
    """Write the state of a training: plain values, tensors, state dicts."""
    with atomic_write(path) as temporary:
        torch.save(dict(content), temporary)


def read_last(path: Path) -> dict[str, Any]:
    """Read what `write_last` wrote.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return content
    except Exception as error:  # the parser of damaged files raises many types
        raise WeightsError(f"{path}: damaged; delete the run and train again") from error

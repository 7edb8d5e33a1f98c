"""What a run leaves in `weights/`: `model.json`, `best.safetensors`, `last.safetensors`.

Each safetensors file is written whole or not at all and carries its own facts (JSON) in its header,
so tensors and facts never disagree.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import RunError
from toolkit.files import atomic_write, read_json, write_json
from toolkit.methods.resnet.network import Classifier, build_classifier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.optim import Optimizer

MODEL, BEST, LAST = "model.json", "best.safetensors", "last.safetensors"
_OPTIMIZER = "optimizer/"
_FACTS = "metadata"


@dataclass(frozen=True)
class ModelCard:
    """What is needed besides the tensors to use a model.

    Attributes:
        network: name of the network.
        classes: class names in the order of the logits, `good` first.
        image_size: side in pixels that images are resized to.
        pooled_layers: layers whose maps are the features; empty for the network's own output.
        views: number of views that the logits are averaged over.
    """

    network: str
    classes: tuple[str, ...]
    image_size: int
    pooled_layers: tuple[str, ...] = ()
    views: int = 1


def write_card(weights: Path, card: ModelCard) -> None:
    """Write `model.json`."""
    write_json(weights / MODEL, asdict(card))


def load_best(weights: Path) -> tuple[Classifier, ModelCard]:
    """Build the chosen model of a run, ready for prediction.

    Raises:
        RunError: the folder holds no finished training.
    """
    if not (weights / MODEL).is_file() or not (weights / BEST).is_file():
        raise RunError(f"{weights}: no trained classifier; train it, or continue with --resume")
    record = read_json(weights / MODEL)
    card = ModelCard(
        **{
            **record,
            "classes": tuple(record["classes"]),
            "pooled_layers": tuple(record.get("pooled_layers", ())),
        }
    )
    model = build_classifier(card.network, len(card.classes), pooled_layers=card.pooled_layers)
    tensors, _ = read_checkpoint(weights / BEST)
    model.load_state_dict(tensors)
    return model.eval(), card


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors by name, and facts (JSON values), into one safetensors file."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(plain, temporary, metadata={_FACTS: json.dumps(dict(facts), sort_keys=True)})


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the facts of a checkpoint.

    Raises:
        RunError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {})[_FACTS])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(
            f"{path}: damaged checkpoint ({error}); delete the run and repeat"
        ) from error


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's tensors under flat names."""
    state = optimizer.state_dict()["state"]
    return {
        f"{_OPTIMIZER}{index}/{name}": tensor
        for index, tensors in state.items()
        for name, tensor in tensors.items()
        if tensor is not None
    }


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors that `optimizer_tensors` gave back into an optimiser of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(_OPTIMIZER):
            index, name = key.removeprefix(_OPTIMIZER).split("/")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def model_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those tensors of a checkpoint that belong to the model."""
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(_OPTIMIZER)}

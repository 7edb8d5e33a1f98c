"""Build a detector, start it from pretrained weights, and start its head so that it learns."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import ConfigError, WeightsError
from toolkit.methods.yolo.prompts import DIMENSION
from toolkit.weights.fetch import fetch
from toolkit.weights.registry import load
from toolkit.weights.resolve import describe_source

WORLD = "-world"
_WORLD_V8 = re.compile(r"yolov8[smlx]-worldv?2?")
# Registered weights that a network can start from, best first.
_STARTS = {"yolov8s-worldv2": ("yolov8s-worldv2", "yolov8s-warm-start")}
_NOMINAL_SIZE = 640


@dataclass(frozen=True)
class Start:
    """What the weights of a network are before training.

    Attributes:
        name: of the registry entry, the file's name, or `none`.
        source: in words, for the run and the leaderboard.
        path: the checkpoint; None from scratch.
    """

    name: str
    source: str
    path: Path | None


SCRATCH = Start(name="none", source="trained from scratch", path=None)


def model_yaml(model: str) -> dict[str, Any]:
    """Return the layers of a network by name, as Ultralytics' own model files describe them.

    `<yolo>-world` is the backbone and neck of that YOLO with YOLO-World's head on it: the last
    line of the model file replaced by `WorldDetect, [nc, 512, False]`. False stands for the head of
    the paper, which normalises each embedding's length; True, as in the v2 models, for a batch
    norm, whose running statistics lag behind a head that starts untrained.

    Raises:
        ConfigError: there is no such network.
    """
    from ultralytics.nn.tasks import yaml_model_load
    from ultralytics.utils import ROOT

    own_head = is_world(model) and not _WORLD_V8.fullmatch(model)
    base = model.removesuffix(WORLD) if own_head else model
    scaleless = re.sub(r"(\d+)([nslmx])(.*)$", r"\1\3", base)
    if not any((ROOT / "cfg/models").rglob(f"{scaleless}.yaml")):
        raise ConfigError(f"model={model}: no such network; use for example yolo11n or yolov8s")
    layers: dict[str, Any] = yaml_model_load(f"{base}.yaml")
    last = layers["head"][-1]
    if own_head:
        if last[2] != "Detect":
            raise ConfigError(f"model={model}: {base} is no plain detector; use yolo11n-world")
        last[2:] = ["WorldDetect", ["nc", DIMENSION, False]]
    return layers


def is_world(model: str) -> bool:
    """Whether a network's name says that its classes come from text."""
    return WORLD in model


def find_start(model: str, weights: str) -> Start:
    """Find the checkpoint that the settings ask for, fetching it if need be.

    Args:
        model: name of the network.
        weights: `pretrained`, `auto` (pretrained where reachable, else scratch), `none`, a name in
            the registry, or a file.

    Raises:
        WeightsError: it is not here and cannot be fetched, or there is none for this network.
    """
    if weights == "none":
        return SCRATCH
    if weights not in ("pretrained", "auto"):
        if weights.endswith(".pt") or Path(weights).expanduser().is_file():
            return from_file(weights)
        return _registered(weights)
    base = model if _WORLD_V8.fullmatch(model) else model.removesuffix(WORLD)
    known = [name for name in _STARTS.get(model, (base,)) if name in load()]
    reasons = []
    for name in known:
        try:
            return _registered(name)
        except WeightsError as error:
            reasons.append(str(error))
    if weights == "auto":
        return SCRATCH
    if not known:
        raise WeightsError(
            f"no pretrained weights are registered for {model}; name a file with --weights FILE, "
            "or train from scratch with --weights none"
        )
    raise WeightsError(f"{'; '.join(reasons)}; or train from scratch with --weights none")


def from_file(file: str) -> Start:
    """Start from a checkpoint file.

    Raises:
        WeightsError: there is none, or it is of another kind.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint; give an Ultralytics .pt file")
    if path.suffix.lower() != ".pt":  # Ultralytics reads no other
        raise WeightsError(f"{path}: not a .pt file; rename it if Ultralytics has written it")
    return Start(name=path.name, source=f"file {path.name}", path=path)


def _registered(name: str) -> Start:
    path = fetch(name)
    return Start(name=name, source=describe_source(name, path), path=path)


def start_contrastive_head(network: Any) -> None:
    """Start the untrained contrastive layers of a `-world` network at the rate of objects.

    Their logits are exp(scale) · cos(text, image) + bias (Cheng et al., "YOLO-World", 2024, eq. 1)
    with bias −10, meant for thousands of categories and long pretraining. This is the prior of a
    plain head instead (`Detect.bias_init`): five objects per 640-pixel image, spread over classes
    and cells. Heads with a batch norm keep their start, with which they learned faster.

    Args:
        network: with a `WorldDetect` head; changed in place.
    """
    import torch

    head = network.model[-1]
    with torch.no_grad():
        for contrast, stride in zip(head.cv4, head.stride, strict=True):
            if not hasattr(contrast, "norm"):
                cells = (_NOMINAL_SIZE / float(stride)) ** 2
                contrast.bias.fill_(math.log(5 / head.nc / cells))


def set_bn_momentum(network: Any, momentum: float) -> None:
    """Set how fast the running statistics of every batch norm follow the batches.

    With Ultralytics' 0.03 they need some hundred batches; a data set of 50 images has three per
    epoch, so validation would see statistics of weights that are long gone.
    """
    from torch.nn import BatchNorm2d

    for module in network.modules():
        if isinstance(module, BatchNorm2d):
            module.momentum = momentum


def untrained_parameters(network: Any) -> list[Any]:
    """Return the parameters of the layers that say which class it is and are new for each data set.

    In a plain head these are the last convolutions of the class branch; in a text-driven one the
    contrastive layers as well, and the prompts where they are tuned.
    """
    head = network.model[-1]
    layers = [branch[-1] for branch in head.cv3]
    layers += list(getattr(head, "cv4", []))
    fresh = [parameter for layer in layers for parameter in layer.parameters()]
    return [*fresh, *network.parameters(recurse=False)]  # prompts that are tuned

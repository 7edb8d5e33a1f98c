"""Build a detector, read a checkpoint without running its code, and copy tensors between them."""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from toolkit.errors import ConfigError, WeightsError
from toolkit.methods.yolo.text_embeddings import DIMENSION

WORLD = "-world"
_WORLD_V8 = re.compile(r"yolov8[smlx]-worldv?2?")
_NOMINAL_SIZE = 640
_FAMILY_SHARE = 0.5
"""Networks of one family and size share far more of their tensors than this; others, far fewer."""

# What torch and Ultralytics raise for damaged files, other formats and refused content.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, TypeError, KeyError, AttributeError,
    ImportError, OSError,
)  # fmt: skip
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def is_world(model: str) -> bool:
    """Return whether the classes of a network of this name come from text."""
    return WORLD in model


def model_yaml(model: str) -> dict[str, Any]:
    """Return the layers of a network by name, as in Ultralytics' own model files.

    `<yolo>-world` is the backbone and neck of that YOLO with YOLO-World's head: the last line of
    the model file is replaced by `WorldDetect, [nc, 512, False]`. False selects the head of the
    paper, which normalizes each embedding's length; True, as in the v2 models, selects a batch
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


def build_network(model: str, **options: Any) -> Any:
    """Build an untrained network by name; `options` are those of Ultralytics (`nc`, `ch`)."""
    from ultralytics.nn.tasks import DetectionModel, WorldModel

    kind = WorldModel if is_world(model) else DetectionModel
    return kind(model_yaml(model), verbose=False, **options)


def pretrained_names(model: str) -> tuple[str, ...]:
    """Return the names of registered weights that a network can start from, the best first."""
    if model == "yolov8s-worldv2":
        return (model, "yolov8s-warm-start")
    return (model if _WORLD_V8.fullmatch(model) else model.removesuffix(WORLD),)


def start_contrastive_head(network: Any) -> None:
    """Set the initial bias of an untrained contrastive head to the expected rate of objects.

    Its logits are exp(scale) · cos(text, image) + bias (Cheng et al., "YOLO-World", 2024, eq. 1)
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


def untrained_parameters(network: Any) -> list[Any]:
    """Return the parameters that decide the class and are new for each data set.

    In a plain head these are the last convolutions of the class branch; in a text-driven one the
    contrastive layers as well, and the class embeddings where they are trained.
    """
    head = network.model[-1]
    layers = [branch[-1] for branch in head.cv3]
    layers += list(getattr(head, "cv4", []))
    fresh = [parameter for layer in layers for parameter in layer.parameters()]
    return [*fresh, *network.parameters(recurse=False)]  # class embeddings


def load_network(path: Path, *, allow_pickle: bool = False) -> Any:
    """Read a network from an Ultralytics checkpoint without running code that it may carry.

    Args:
        path: the checkpoint.
        allow_pickle: read it even if it holds objects of other libraries than torch and
            Ultralytics, which may run code.

    Returns:
        The network (float32, on the CPU, in evaluation mode).

    Raises:
        WeightsError: missing, damaged, not an Ultralytics checkpoint, of a newer Ultralytics,
            refused, or with values that are not finite.
    """
    import torch
    from ultralytics.nn import tasks

    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint; see: toolkit weights list")
    before = tasks.SAFE_LOAD
    tasks.SAFE_LOAD = not allow_pickle
    try:
        network, _ = tasks.load_checkpoint(path)
    except _UNREADABLE as error:
        raise WeightsError(_why_unreadable(path, error)) from error
    finally:
        tasks.SAFE_LOAD = before
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(
                f"{path}: {name} has values that are not finite; the file is damaged or the "
                "training diverged: train again"
            )
    return network


def _why_unreadable(path: Path, error: Exception) -> str:
    from ultralytics import __version__

    found = checkpoint_version(path)
    if found is not None and _numbers(found) > _numbers(__version__):
        return (
            f"{path}: made by Ultralytics {found}, which is newer than {__version__} here and "
            "has parts that it does not know; update ultralytics"
        )
    if "outside the supported" in str(error):
        return (
            f"{path}: holds more than a network of Ultralytics and could run code when read; if "
            "you trust its author, repeat with --allow-pickle"
        )
    reason = " ".join(str(error).split())[:160]
    return f"{path}: not a readable Ultralytics checkpoint ({reason}); fetch it again"


def checkpoint_version(path: Path) -> str | None:
    """Return the version of Ultralytics that wrote a checkpoint, without unpickling it.

    The version is the text after the key `version` in the pickle.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith("data.pkl"))
            texts = [arg for _, arg, _ in pickletools.genops(archive.read(name))
                     if isinstance(arg, str)]  # fmt: skip
    except (zipfile.BadZipFile, OSError, ValueError):
        return None
    for key, value in pairwise(texts):
        if key == "version" and _VERSION.match(value):
            return value
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def matching_tensors(network: Any, source: Any) -> tuple[list[str], list[str]]:
    """Return the names of a network's tensors that `source` has in the same shape, and the others.

    After Ultralytics' `load` these are the copied tensors, and those that start untrained.
    """
    theirs = {name: tensor.shape for name, tensor in source.state_dict().items()}
    ours = network.state_dict()
    names = [name for name, tensor in ours.items() if theirs.get(name) == tensor.shape]
    return names, [name for name in ours if name not in set(names)]


def describe_copied(names: Sequence[str], left: Sequence[str]) -> str:
    """Return one line: how many tensors were copied, and in which layers the others are."""
    layers = Counter(".".join(name.split(".")[:3]) for name in left)
    untrained = ", ".join(f"{layer} ({count})" for layer, count in sorted(layers.items()))
    line = f"{len(names)} of {len(names) + len(left)} tensors copied"
    return f"{line}; untrained: {untrained}" if untrained else line


def check_family(source: Any, *, model: str, path: Path) -> None:
    """Refuse a checkpoint of another architecture before anything is trained.

    A few tensors of another network may fit by chance, which would be training from scratch.

    Raises:
        WeightsError: less than half of the tensors of `model` find a counterpart.
    """
    names, left = matching_tensors(build_network(model), source)
    total = len(names) + len(left)
    if len(names) < _FAMILY_SHARE * total:
        raise WeightsError(
            f"{path}: only {len(names)} of the {total} tensors of {model} are in it, so it is of "
            "another architecture; take a checkpoint of the same family and size"
        )

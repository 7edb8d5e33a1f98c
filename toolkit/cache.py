"""The contents of the cache folder, by kind: arrays that can be computed again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import ConfigError, did_you_mean
from toolkit.files import OutputError
from toolkit.home import cache_dir

_DESCRIPTIONS = {
    "embeddings": "SAM image embeddings, 2 MiB per image and view",
    "features": "features of frozen networks",
    "classifier-features": "pooled features of the classifier's frozen layers",
    "engines": "networks of runs for ONNX Runtime and OpenVINO",
    "resized": "images at the classifier's input size",
    "ultralytics": "settings of Ultralytics",
}


@dataclass(frozen=True)
class CacheKind:
    """One file or folder directly under the cache folder.

    Attributes:
        name: its file name.
        path: where it is.
        description: what it contains; empty if this version does not use it.
        files: number of files in it.
        size_bytes: their total size.
    """

    name: str
    path: Path
    description: str
    files: int
    size_bytes: int


def cache_kinds() -> list[CacheKind]:
    """Return everything in the cache, sorted by name."""
    base = cache_dir()
    return [_measure(path) for path in sorted(base.iterdir())] if base.is_dir() else []


def chosen_kinds(names: Sequence[str]) -> list[CacheKind]:
    """Return the named kinds, or all of them without names.

    Raises:
        ConfigError: no kind of that name is in the cache.
    """
    kinds = {kind.name: kind for kind in cache_kinds()}
    for name in names:
        if name not in kinds:
            raise ConfigError(f"cache {name}: not in {cache_dir()}{did_you_mean(name, kinds)}")
    return [kinds[name] for name in dict.fromkeys(names)] if names else list(kinds.values())


def clear_kind(kind: CacheKind) -> None:
    """Delete one kind; if it is a link, only the link.

    Raises:
        OutputError: it cannot be deleted.
    """
    try:
        if kind.path.is_dir() and not kind.path.is_symlink():
            shutil.rmtree(kind.path)
        else:
            kind.path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{kind.path}: cannot be deleted ({error.strerror or error})") from error


def _measure(path: Path) -> CacheKind:
    files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
    sizes = [f.lstat().st_size for f in files]
    return CacheKind(path.name, path, _DESCRIPTIONS.get(path.name, ""), len(files), sum(sizes))

"""What lies under `cache/`: things that can be computed again, by kind."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import ConfigError, did_you_mean
from toolkit.files import OutputError
from toolkit.home import cache_dir

_KINDS = {
    "embeddings": "SAM image embeddings, 2 MiB per image and view",
    "features": "features of frozen networks",
    "resized": "images at a network's input size",
    "ultralytics": "settings of Ultralytics",
    "unreachable_hosts.json": "hosts that did not answer lately",
}


@dataclass(frozen=True)
class CacheKind:
    """One file or folder directly under the cache folder.

    Attributes:
        name: its file name.
        path: where it is.
        what: what it holds, in a few words; empty where this version does not know it.
        files: number of files in it.
        size_bytes: their sizes added.
    """

    name: str
    path: Path
    what: str
    files: int
    size_bytes: int


def cache_kinds() -> list[CacheKind]:
    """Return everything in the cache, sorted by name; empty where there is no cache."""
    base = cache_dir()
    return [_measured(path) for path in sorted(base.iterdir())] if base.is_dir() else []


def chosen_kinds(names: Sequence[str]) -> list[CacheKind]:
    """Return the named kinds; all of them without names.

    Raises:
        ConfigError: there is nothing of that name in the cache.
    """
    kinds = {kind.name: kind for kind in cache_kinds()}
    for name in names:
        if name not in kinds:
            raise ConfigError(f"cache {name}: not in {cache_dir()}{did_you_mean(name, kinds)}")
    return [kinds[name] for name in dict.fromkeys(names)] if names else list(kinds.values())


def clear_kind(kind: CacheKind) -> None:
    """Delete one kind; of a link only the link goes.

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


def _measured(path: Path) -> CacheKind:
    files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
    sizes = [f.lstat().st_size for f in files]
    return CacheKind(path.name, path, _KINDS.get(path.name, ""), len(files), sum(sizes))

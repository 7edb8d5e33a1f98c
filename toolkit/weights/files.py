"""Hash files, and write them so that an interruption leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

CHUNK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    An unchanged file (same size and time of change) is read once per process: a benchmark asks
    for the same checkpoint in every task, and ViT-H has 2.5 GB.
    """
    stat = path.stat()
    return _sha256(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary name beside `target` that becomes `target` if the body succeeds.

    Whatever ends the body early, an interrupt from the keyboard included, removes the temporary
    file and leaves `target` as it was. Two processes may write the same target at once.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        yield temporary
        os.replace(temporary, target)  # noqa: PTH105 (atomic on every platform, by name)
    finally:
        temporary.unlink(missing_ok=True)

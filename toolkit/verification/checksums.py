"""Checksums: of a folder in `checksums.json`, of one JSON file inside it, of an array behind it.

`checksums.json` holds the SHA-256 of every file of a folder and is written after them. A sealed
JSON file holds its own as `checksum`. Files of older versions have neither and stay readable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.files import json_text, read_json, write_json

CHECKSUMS = "checksums.json"
SEAL = "checksum"
_SCHEMA = 1
_NEVER = (CHECKSUMS, ".lock")
_TRAILER = b"sha256"  # marks the end of a file that carries its own checksum
TRAILER_BYTES = len(_TRAILER) + hashlib.sha256().digest_size


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with their checksum.

    Example:
        >>> is_sealed(sealed({"threshold": 0.5}))
        True
        >>> is_sealed({**sealed({"threshold": 0.5}), "threshold": 0.25})
        False
    """
    plain = {key: value for key, value in record.items() if key != SEAL}
    return {**plain, SEAL: _seal(plain)}


def is_sealed(record: Mapping[str, Any]) -> bool | None:
    """Return whether JSON values are those that were sealed; None if they carry no checksum."""
    if SEAL not in record:
        return None
    return bool(_seal({k: v for k, v in record.items() if k != SEAL}) == record[SEAL])


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON file that holds its own checksum; atomic.

    Raises:
        OutputError: the file cannot be written.
    """
    # Keys that are no strings become strings in JSON.
    write_json(path, sealed(json.loads(json.dumps(record, allow_nan=False))))


def read_sealed(path: Path, *, fix: str) -> Any:
    """Read a JSON file and compare it with the checksum that it holds, if it holds one.

    Args:
        path: the file.
        fix: what a person does about a damaged file, as the end of the message.

    Raises:
        ToolkitError: the file is missing, is not JSON, or has changed since it was written.
    """
    record = read_json(path)
    if isinstance(record, dict):
        if is_sealed(record) is False:
            raise ToolkitError(f"{path}: changed since it was written; {fix}")
        record.pop(SEAL, None)
    return record


def write_checksums(
    folder: Path,
    *,
    known: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write the SHA-256 of every file of a folder, and of its subfolders, into `checksums.json`.

    Args:
        folder: it is complete, but for `texts`.
        known: hashes of files outside, by absolute path; links to these are recorded, too. Other
            links are left out.
        texts: the content of files that are written after the record, by name.

    Raises:
        OutputError: the record cannot be written.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in _NEVER or ".tmp-" in path.name:
            continue
        if path.is_symlink():
            digest = (known or {}).get(str(path.readlink()))
            if digest is not None:
                found[name] = digest
        elif path.is_file():
            found[name] = sha256_of(path)
    for name, text in (texts or {}).items():
        found[name] = hashlib.sha256(text.encode()).hexdigest()
    _write(folder, found)


def update_checksums(folder: Path, *names: str, texts: Mapping[str, str] | None = None) -> None:
    """Record files of a folder that were written again; nothing happens without a record.

    Args:
        folder: the folder.
        *names: files in it.
        texts: as in `write_checksums`.

    Raises:
        OutputError: the record cannot be written.
    """
    try:
        found = read_checksums(folder)
    except ToolkitError:
        return  # damaged: it stays so, because it is evidence
    if found is None:
        return
    for name in names:
        found[name] = sha256_of(folder / name)
    for name, text in (texts or {}).items():
        found[name] = hashlib.sha256(text.encode()).hexdigest()
    _write(folder, found)


def read_checksums(folder: Path) -> dict[str, str] | None:
    """Return the recorded SHA-256 of each file by its name; None if an older version wrote none.

    Raises:
        ToolkitError: the record is damaged.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return None
    record = read_json(path)
    files = record.get("files") if isinstance(record, dict) else None
    if (
        not isinstance(files, dict)
        or is_sealed(record) is not True
        or json_text(record).encode() != path.read_bytes()
    ):
        raise ToolkitError(f"{path}: changed since it was written")
    return {str(name): str(digest) for name, digest in files.items()}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def trailer(content: bytes) -> bytes:
    """Return what is written behind the content of a file, so that it carries its checksum."""
    return _TRAILER + hashlib.sha256(content).digest()


def without_trailer(data: bytes) -> tuple[bytes, bool | None]:
    """Return the content of a file, and whether it is what its trailer says.

    Example:
        >>> without_trailer(b"array" + trailer(b"array"))
        (b'array', True)
        >>> without_trailer(b"arrax" + trailer(b"array"))[1], without_trailer(b"array")[1]
        (False, None)
    """
    content, end = data[:-TRAILER_BYTES], data[-TRAILER_BYTES:]
    if not end.startswith(_TRAILER):
        return data, None
    return content, trailer(content) == end


def _seal(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _write(folder: Path, files: Mapping[str, str]) -> None:
    write_json(folder / CHECKSUMS, sealed({"schema": _SCHEMA, "files": dict(files)}))

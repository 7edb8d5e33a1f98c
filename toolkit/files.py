"""Atomic writes: a file or folder appears complete under its name, or not at all.

What is being written has a temporary name beside its target that holds the host and the process.
What a killed process left behind is removed when another process first writes into the folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError

_TEMPORARY = re.compile(r"\..+\.tmp-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}(\.[^.]*)?")
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_BELOW_BYTES = 1 << 20
_MOST_BYTES = 200

_active: set[str] = set()  # temporary names of this process
_cleaned: set[tuple[int, Path]] = set()  # process and folder


class OutputError(ToolkitError):
    """An output cannot be written."""


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ToolkitError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ToolkitError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise ToolkitError(f"{path}: not valid JSON ({error}); write it again") from error


def write_json(path: Path, record: Any) -> None:
    """Write JSON with sorted keys, so that equal records give equal bytes; atomic.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, json_text(record))


def json_text(record: Any) -> str:
    """Return what `write_json` writes."""
    return json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8; atomic.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; at the end it takes the place of `path`.

    After an error or an interrupt `path` is as before and the temporary file is gone.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_write(target) as temporary:
        ...     _ = temporary.write_text("complete")
        >>> target.read_text()
        'complete'

    Raises:
        OutputError: the file cannot be written, or the disk is full.
    """
    with _temporary_name(path) as temporary:
        try:
            with _blame(path):
                temporary.touch(exist_ok=False)
            with _blame(path, within=temporary):
                yield temporary
            with _blame(path):
                temporary.chmod(0o666 & ~_umask())  # some writers make private files
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; at the end it takes the place of `path`.

    Args:
        path: the folder to make.
        overwrite: whether an existing folder may be replaced.

    Raises:
        OutputError: `path` exists and `overwrite` is false, is not a folder, contains the working
            folder, or cannot be written; or the disk is full.
    """
    path = path.absolute()  # `.` has no name
    remove_leftovers(path.parent)
    _check_replaceable(path, overwrite=overwrite)
    with _temporary_name(path) as temporary:
        fresh, old = temporary / "new", temporary / "old"
        try:
            with _blame(path):
                temporary.mkdir()
                fresh.mkdir()
            with _blame(path, within=fresh):
                yield fresh
            with _blame(path):
                if path.exists():
                    path.rename(old)  # deleting takes long; two renames are nearly atomic
                fresh.rename(path)
        finally:
            if old.exists() and not path.exists():
                old.rename(path)
            shutil.rmtree(temporary, ignore_errors=True)


def short_name(name: str) -> str:
    """Return a name of at most 200 bytes, because file systems allow 255 with what is added.

    A longer one keeps its start, and gets a part of its hash, so that two stay different.

    Example:
        >>> short_name("a"), len(short_name("x" * 255))
        ('a', 200)
    """
    data = os.fsencode(name)
    if len(data) <= _MOST_BYTES:
        return name
    digest = hashlib.sha256(data).hexdigest()[:16]
    start = data[: _MOST_BYTES - len(digest) - 1].decode("utf-8", "ignore")
    return f"{start}-{digest}"


@contextmanager
def _temporary_name(path: Path) -> Iterator[Path]:
    """Yield an unused name beside `path`, after removing what dead processes left there."""
    with _blame(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    long = len(os.fsencode(path.name)) > 150  # file systems allow 255 bytes
    label = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16] if long else path.name
    suffix = "" if len(path.suffix) > 20 else path.suffix
    name = f".{label}.tmp-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"
    _active.add(name)
    try:
        yield path.with_name(name)
    finally:
        _active.discard(name)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes of this host left in a folder.

    Once per process and folder, because listing a cache of many thousand files for each new one
    would cost more than writing it.
    """
    here = (os.getpid(), folder.absolute())
    if here in _cleaned:
        return
    _cleaned.add(here)
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            found = _TEMPORARY.fullmatch(entry.name)
            if not found or found["host"] != _HOST or _is_running(int(found["pid"]), entry.name):
                continue
            leftover = Path(entry.path)
            if not entry.is_dir(follow_symlinks=False):
                leftover.unlink(missing_ok=True)
                continue
            original = folder / entry.name[1 : found.start("host") - len(".tmp-")]
            if (leftover / "old").is_dir() and not original.exists():
                (leftover / "old").rename(original)  # killed between the two renames
            shutil.rmtree(leftover, ignore_errors=True)


def _is_running(pid: int, name: str) -> bool:
    if pid == os.getpid():  # in a container every process may have the same number
        return name in _active
    if os.name != "posix":
        return True  # signal 0 would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _check_replaceable(path: Path, *, overwrite: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise OutputError(f"{path}: already there; choose another --out or add --overwrite")
    if path.is_symlink() or not path.is_dir():
        raise OutputError(f"{path}: is not a folder; remove it or choose another --out")
    here = Path.cwd().resolve()
    if path.resolve() in (here, *here.parents):
        raise OutputError(f"{path}: contains the working folder; choose another --out")


_RUST_ERROR = re.compile(r"\(os error (\d+)\)$")


@contextmanager
def _blame(path: Path, *, within: Path | None = None) -> Iterator[None]:
    """Turn errors of the file system into an `OutputError` that names `path`.

    With `within`, only errors about that place count, and a full disk: while an output is written,
    inputs are read, and their errors are not about the output.
    """
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:
        if _is_disk_full(error, path.parent):
            reason = os.strerror(errno.ENOSPC)
            raise OutputError(f"{path}: cannot be written ({reason}); free some space") from error
        found = _RUST_ERROR.search(str(error))
        if found is not None and "Safetensor" in type(error).__name__:
            reason = os.strerror(int(found[1]))
            raise OutputError(f"{path}: cannot be written ({reason})") from error
        if not isinstance(error, OSError) or (within is not None and not _is_about(error, within)):
            raise
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _is_disk_full(error: Exception, folder: Path) -> bool:
    """Return whether an error comes from a full disk.

    NumPy, torch and safetensors report a failed write without an error number, so that the free
    space decides.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK_FULL
    if not isinstance(error, OSError | RuntimeError) and "Safetensor" not in type(error).__name__:
        return False
    try:
        return shutil.disk_usage(folder).free < _FULL_BELOW_BYTES
    except OSError:
        return False


def _is_about(error: OSError, place: Path) -> bool:
    if error.filename is None:  # a write to an open file; network errors have no number
        return error.errno is not None
    named = Path(os.fsdecode(error.filename))
    return named == place or place in named.parents


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

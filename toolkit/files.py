"""Small things about files: whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError


class OutputError(ToolkitError):
    """Something could not be written."""


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ToolkitError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ToolkitError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise ToolkitError(f"{path}: not valid JSON ({error}); write it anew") from error


def write_json(path: Path, record: Any) -> None:
    """Write JSON with sorted keys, so equal records give equal bytes; whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text to a temporary neighbour and rename it over `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary file name beside `path`; on success it takes the place of `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    with _blamed_on(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
    temporary = Path(name)
    try:
        with _blamed_on(path, within=temporary):
            yield temporary
        with _blamed_on(path):
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it takes the place of `path`.

    Args:
        path: the folder to make.
        overwrite: whether an existing folder may be replaced.

    Raises:
        OutputError: `path` exists and `overwrite` is false, is not a folder, holds the working
            folder, or cannot be written.
    """
    path = path.absolute()  # `.` has no name
    _check_replaceable(path, overwrite=overwrite)
    with _blamed_on(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    fresh, old = temporary / "new", temporary / "old"
    try:
        with _blamed_on(path):
            fresh.mkdir()
        with _blamed_on(path, within=fresh):
            yield fresh
        with _blamed_on(path):
            if path.exists():
                path.rename(old)  # removing takes long; two renames leave no gap to speak of
            fresh.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(path: Path, *, overwrite: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise OutputError(f"{path}: already there; choose another --out or add --overwrite")
    if path.is_symlink() or not path.is_dir():
        raise OutputError(f"{path}: is not a folder; remove it or choose another --out")
    here = Path.cwd().resolve()
    if path.resolve() in (here, *here.parents):
        raise OutputError(f"{path}: holds the working folder; choose another --out")


@contextmanager
def _blamed_on(path: Path, *, within: Path | None = None) -> Iterator[None]:
    """Turn what the file system refuses into an error that names `path`.

    With `within`, errors about other files pass: while something is written, other things are
    read, and what goes wrong there is not the fault of the output.
    """
    try:
        yield
    except OSError as error:
        if within is not None and not _is_about(error, within):
            raise
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _is_about(error: OSError, place: Path) -> bool:
    if error.filename is None:  # a write to an open file; network errors have no number
        return error.errno is not None
    named = Path(os.fsdecode(error.filename))
    return named == place or place in named.parents


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Unpack one data set out of a tar or zip archive that is not to be trusted.

Members are read and written one by one as plain files: nothing of an archive but names and
contents reaches the disk, so links, devices, owners and modes cannot do harm, whatever the Python
version thinks of them.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from toolkit.errors import DataError

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes so far and the whole, where it is known."""

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # zip: encrypted, or a compression that this Python lacks
)
# A wrong offset in a zip's directory ends as a failed seek or a failed decoding.
_ZIP_DIRECTORY_DAMAGE = (OSError, ValueError, struct.error)


def unpack(archive: Path, into: Path, *, folder: str, progress: Progress | None = None) -> None:
    """Unpack the files of one folder of an archive.

    The folder is looked for at the top of the archive and one level below, so that archives of
    one category, of all categories, and those with one more folder around them all work. Other
    folders are skipped.

    Args:
        archive: a zip, or a tar with any compression that Python reads.
        into: existing folder that receives what is inside `folder`.
        folder: name of the folder to take, for example `bottle`.
        progress: called with the bytes of the archive that were read, and its size.

    Raises:
        DataError: the archive is damaged, cut off, holds no such folder, or tries to write outside
            of `into` (absolute path, `..`, link, device).
        OSError: the disk is full or not writable.
    """
    seen: set[str] = set()
    taken = 0
    try:
        for name, stream in _files(archive, progress):
            parts = _safe_parts(archive, name)
            inner = _below(parts, folder)
            if inner is None:
                seen.update(part for part in parts[:-1][:2])
                continue
            _write(archive, stream, into.joinpath(*inner))
            taken += 1
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{archive}: damaged, cut off, or no tar or zip ({reason}); download it again"
        ) from error
    if not taken:
        others = f"; it holds {', '.join(sorted(seen)[:8])}" if seen else ""
        raise DataError(f"{archive}: no folder {folder} inside{others}; give another archive")


def _files(archive: Path, progress: Progress | None) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and content of each regular file, in the archive's order."""
    if zipfile.is_zipfile(archive):
        yield from _zip_files(archive, progress)
    else:
        yield from _tar_files(archive, progress)


def _tar_files(archive: Path, progress: Progress | None) -> Iterator[tuple[str, IO[bytes]]]:
    size = archive.stat().st_size
    # As a stream: nobody has to decompress five gigabytes twice.
    with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
        for member in tar:
            if member.isdir():
                continue
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None:
                raise _unsafe(archive, member.name, "is a link or a device")
            yield member.name, stream
            if progress is not None:
                progress(raw.tell(), size)
        if progress is not None:
            progress(size, size)


def _zip_files(archive: Path, progress: Progress | None) -> Iterator[tuple[str, IO[bytes]]]:
    size = archive.stat().st_size
    done = 0
    with _opened(archive) as opened:
        for member in opened.infolist():
            if member.filename.endswith("/"):  # is_dir() stumbles over an empty name
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _unsafe(archive, member.filename, "is a link or a device")
            with _entered(opened, member) as stream:
                yield member.filename, stream
            done += member.compress_size
            if progress is not None:
                progress(done, size)


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except _ZIP_DIRECTORY_DAMAGE as error:
        raise zipfile.BadZipFile(f"bad directory: {error}") from error


def _entered(opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    try:
        return opened.open(member)
    except _ZIP_DIRECTORY_DAMAGE as error:
        raise zipfile.BadZipFile(f"bad entry: {error}") from error


def _safe_parts(archive: Path, name: str) -> tuple[str, ...]:
    """Return the parts of a member's path.

    Raises:
        DataError: the path could leave the folder on some platform.
    """
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or any(sign in name for sign in "\\:\0"):
        raise _unsafe(archive, name, "would be written outside of the data set")
    return parts


def _below(parts: tuple[str, ...], folder: str) -> tuple[str, ...] | None:
    """Return the path below the wanted folder, or None for what is not part of it."""
    if (
        not parts
        or parts[0] == "__MACOSX"
        or parts[-1] == ".DS_Store"
        or parts[-1].startswith("._")
    ):
        return None  # what macOS adds to its zips
    for depth in (2, 1):
        if len(parts) > depth and parts[depth - 1] == folder:
            return parts[depth:]
    return None


def _write(archive: Path, stream: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("xb")
    except FileExistsError:
        raise DataError(
            f"{archive}: holds {path.name} twice in one folder; give another archive"
        ) from None
    with file:
        shutil.copyfileobj(stream, file, 1 << 20)


def _unsafe(archive: Path, name: str, why: str) -> DataError:
    return DataError(f"{archive}: refused, its member {name!r} {why}; give another archive")

"""Unpack one data set out of an untrusted tar or zip archive.

Members are read and written one by one as plain files: nothing of an archive but names and
contents reaches the disk, so links, devices, owners and modes cannot do harm. Images hardly
compress, so an archive that unpacks to many times its size is refused: by the declared sizes before
anything is written, and by the bytes while they are written.
"""

from __future__ import annotations

import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from toolkit.errors import DataError, printable

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes done and the total, which is None if unknown."""
_MAX_RATIO, _MIN_LIMIT = 20, 1 << 28  # so many times the archive's size, at least 256 MiB

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    TypeError,  # the head of a cut gzip file
    struct.error,
    OverflowError,
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
        DataError: the archive is damaged, cut off, holds no such folder, unpacks to more than 20
            times its size (and more than 256 MiB), or tries to write outside of `into` (absolute
            path, `..`, link, device).
        OSError: the disk is full or not writable.
    """
    seen: set[str] = set()
    count = declared = written = 0
    limit = max(_MIN_LIMIT, _MAX_RATIO * archive.stat().st_size)
    try:
        for name, size, stream in _files(archive, folder, limit, progress):
            parts = _safe_parts(archive, name)
            inner = _below(parts, folder)
            if inner is None:
                seen.update(part for part in parts[:-1][:2])
                continue
            declared += size
            if declared > limit:
                raise _too_large(archive, limit)
            written += _write(archive, stream, into.joinpath(*inner), limit - written)
            count += 1
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{printable(archive)}: damaged, cut off, or no tar or zip ({reason}); "
            "download it again"
        ) from error
    if not count:
        others = f"; it holds {printable(', '.join(sorted(seen)[:8]))}" if seen else ""
        raise DataError(
            f"{printable(archive)}: no folder {folder} inside{others}; give another archive"
        )


def _files(
    archive: Path, folder: str, limit: int, progress: Progress | None
) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, declared size and content of each regular file, in the archive's order."""
    if zipfile.is_zipfile(archive):
        yield from _zip_files(archive, folder, limit, progress)
    else:
        yield from _tar_files(archive, progress)


def _tar_files(archive: Path, progress: Progress | None) -> Iterator[tuple[str, int, IO[bytes]]]:
    size = archive.stat().st_size
    # As a stream, so that five gigabytes are decompressed once only.
    with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
        for member in tar:
            if member.isdir():
                continue
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None:
                raise _unsafe(archive, member.name, "is a link or a device")
            yield member.name, member.size, stream
            if progress is not None:
                progress(raw.tell(), size)
        if progress is not None:
            progress(size, size)


def _zip_files(
    archive: Path, folder: str, limit: int, progress: Progress | None
) -> Iterator[tuple[str, int, IO[bytes]]]:
    size = archive.stat().st_size
    done = 0
    with _opened(archive) as opened:
        # A zip lists its members first: refuse it before anything is written.
        wanted = [m for m in opened.infolist() if folder in m.filename.split("/")]
        if sum(member.file_size for member in wanted) > limit:
            raise _too_large(archive, limit)
        for member in opened.infolist():
            if member.filename.endswith("/"):  # is_dir() stumbles over an empty name
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _unsafe(archive, member.filename, "is a link or a device")
            with _entered(opened, member) as stream:
                yield member.filename, member.file_size, stream
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


def _write(archive: Path, stream: IO[bytes], path: Path, limit: int) -> int:
    """Write at most `limit` bytes to a new file, return their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("xb")
    except FileExistsError:
        raise DataError(
            f"{printable(archive)}: holds {printable(path.name)} twice in one folder; "
            "give another archive"
        ) from None
    written = 0
    with file:
        while block := stream.read(1 << 20):
            written += len(block)
            if written > limit:
                raise _too_large(archive, limit)
            file.write(block)
    return written


def _too_large(archive: Path, limit: int) -> DataError:
    return DataError(
        f"{printable(archive)}: refused, it unpacks to more than {limit / 1e6:.0f} MB, which is "
        "implausible for its size; check it, unpack it yourself and give the folder with --data"
    )


def _unsafe(archive: Path, name: str, why: str) -> DataError:
    return DataError(
        f"{printable(archive)}: refused, its member {name!r} {why}; give another archive"
    )

"""Files at addresses such as `s3://bucket/folder`, through fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.errors import DataError, MissingExtraError, ToolkitError


class StorageError(ToolkitError):
    """A storage cannot be reached, refuses, or has vanished in the middle."""


def is_address(place: object) -> bool:
    """Return whether a place is an address of a storage, and no path of this machine.

    Example:
        >>> is_address("s3://bucket/runs"), is_address("runs")
        (True, False)
    """
    return "://" in str(place)


def open_storage(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        MissingExtraError: the library of this kind of storage is not installed.
        StorageError: there is no such kind.
    """
    scheme = address.partition("://")[0]
    try:
        import fsspec
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingExtraError("fsspec", extra="storage", purpose=f"use {scheme}://") from error
    try:
        fs, path = url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        raise MissingExtraError(f"the library for {scheme}://", extra="storage",
                                purpose=f"use {address}") from error  # fmt: skip
    except ValueError as error:
        known = ", ".join(f"{one}://" for one in ("s3", "gs", "file") if fsspec)
        raise StorageError(f"{address}: unknown kind of storage; known: {known}") from error
    return fs, str(path)


@contextmanager
def blaming(address: str) -> Iterator[None]:
    """Turn what a storage raises into one line that names the address.

    Raises:
        StorageError: the storage refuses, or nobody answers.
    """
    try:
        yield
    except (ToolkitError, KeyboardInterrupt):
        raise
    except Exception as error:  # each storage raises errors of its own
        reason = (str(error).splitlines() or [""])[0][:160] or type(error).__name__
        kind = "not found" if isinstance(error, FileNotFoundError) else "cannot be used"
        raise StorageError(
            f"{address}: {kind} ({reason}); check the address, the keys and the network"
        ) from error


def read_address(address: str) -> bytes:
    """Return the content of a file of this machine or of a storage.

    Raises:
        DataError: it cannot be read.
    """
    from toolkit.data.decoding import read_bytes

    if not is_address(address):
        return read_bytes(Path(address))
    try:
        with blaming(address):
            fs, path = open_storage(address)
            return bytes(fs.cat_file(path))
    except StorageError as error:
        raise DataError(str(error)) from error


def addresses_of(place: str) -> Iterator[str]:
    """Yield the addresses of all images in a folder or storage, and its subfolders.

    A folder is listed in parts, see `image_files`; of a storage one folder at a time is in memory.

    Raises:
        DataError: a folder cannot be read.
        StorageError: the storage cannot be used.
    """
    from toolkit.data.images import is_image_file
    from toolkit.inference.media import paths_from_stdin
    from toolkit.inference.sources import image_files

    if place == "-":
        yield from paths_from_stdin()
    elif not is_address(place):
        folder = Path(place).expanduser()
        if not folder.is_dir():
            raise DataError(f"{place}: no such folder; give images")
        yield from (str(file.absolute()) for file in image_files(folder))
    else:
        scheme = place.partition("://")[0]
        with blaming(place):
            fs, root = open_storage(place)
            if not fs.exists(root):
                raise FileNotFoundError("nothing there")
            for folder_path, _, names in fs.walk(root, detail=False):
                for name in sorted(names):
                    if is_image_file(Path(name)):
                        yield f"{scheme}://{folder_path}/{name}"

"""Images in lists, archives, videos and cameras, one after the other."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from toolkit.data.decoding import BYTES_PER_PIXEL, max_pixels
from toolkit.data.images import decode_rgb, is_image_file
from toolkit.errors import DataError, MissingExtraError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Load = Callable[[], NDArray[np.uint8]]

LIST_SUFFIXES = (".txt", ".parquet")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv")
PATH_COLUMNS = ("path", "image", "file")

_UNPLUGGED_AFTER = 10  # frames of a camera that fail one after the other


class EndedEarlyError(DataError):
    """A source has ended before its end; the images before it are good."""


def kind_of(path: Path) -> Literal["list", "archive", "video", "image"]:
    """Return what a file is, by the end of its name."""
    name = path.name.lower()
    if name.endswith(LIST_SUFFIXES):
        return "list"
    if name.endswith(ARCHIVE_SUFFIXES):
        return "archive"
    return "video" if name.endswith(VIDEO_SUFFIXES) else "image"


def listed_paths(path: Path) -> Iterator[str]:
    """Yield the paths of a text file, one a line, or of a Parquet file's column.

    Raises:
        DataError: it cannot be read, or the Parquet file has no column `path`, `image` or `file`.
        MissingExtraError: PyArrow is not installed.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet_paths(path)
        return
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            yield from _lines(file)
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot be read ({error.strerror})") from error


def paths_from_stdin() -> Iterator[str]:
    """Yield paths from standard input, one a line."""
    # A copy of its own: Python cannot end while a thread waits for the standard one.
    with os.fdopen(os.dup(0), encoding="utf-8", errors="surrogateescape") as file:
        yield from _lines(file)


def _lines(file: IO[str]) -> Iterator[str]:
    for line in file:
        text = line.rstrip("\r\n")
        if text.strip():
            yield text


def _parquet_paths(path: Path) -> Iterator[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="parquet", purpose="use Parquet") from error
    try:
        file = parquet.ParquetFile(path)
        names = [name for name in PATH_COLUMNS if name in file.schema_arrow.names]
        if not names:
            raise DataError(f"{printable(path)}: no column {', '.join(PATH_COLUMNS)}; name one so")
        for batch in file.iter_batches(columns=names[:1]):
            yield from (str(value) for value in batch.column(0).to_pylist() if value is not None)
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{printable(path)}: not a readable Parquet file ({reason})") from error


def archive_images(path: Path) -> Iterator[tuple[str, Load]]:
    """Yield name and decoder of each image in a zip or tar archive; nothing is unpacked to disk.

    Raises:
        DataError: it is no such archive.
        EndedEarlyError: it is damaged behind the images that were yielded.
    """
    members = _zip_members if path.suffix.lower() == ".zip" else _tar_members
    seen = False
    try:
        for name, size, read in members(path):
            parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts
                     if part not in ("/", "..")]  # fmt: skip
            if not parts or not is_image_file(Path(parts[-1])):
                continue
            label = Path(f"{path}/{'/'.join(parts)}")
            data = None if size > max_pixels() * BYTES_PER_PIXEL else read()
            seen = True
            yield "/".join(parts), _decoder(label, data)
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, ValueError, RuntimeError,
            NotImplementedError) as error:  # fmt: skip
        text = f"{printable(path)}: not a readable archive ({error})"
        if seen:
            raise EndedEarlyError(f"{text}; pack it again") from error
        raise DataError(f"{text}; pack it again") from error


def _decoder(label: Path, data: bytes | None) -> Load:
    def load() -> NDArray[np.uint8]:
        if data is None:
            raise DataError(f"{printable(label)}: file is too large for an image; replace it")
        return decode_rgb(label, data)

    return load


def _zip_members(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield member.filename, member.file_size, lambda m=member: archive.read(m)  # type: ignore[misc]


def _tar_members(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name, member.size, content.read
            archive.members = []  # type: ignore[attr-defined]  # it would keep all that it has read


def video_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video, RGB uint8 (H, W, 3).

    Raises:
        DataError: it is no video that OpenCV reads.
        EndedEarlyError: it has fewer frames than its header says.
    """
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise DataError(f"{printable(path)}: not a readable video; replace the file")
        count, told = 0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        while (frame := _next_frame(capture)) is not None:
            count += 1
            yield frame
        if count < told:
            raise EndedEarlyError(
                f"{printable(path)}: ends after {count} of {told} frames (damaged or cut short)"
            )
    finally:
        capture.release()


def camera_frames(number: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a camera, RGB uint8 (H, W, 3), until it is unplugged.

    Raises:
        DataError: there is no such camera.
        EndedEarlyError: it gives no more frames.
    """
    import cv2

    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise DataError(f"camera {number}: cannot be opened; is it plugged in?")
        count = failed = 0
        while failed < _UNPLUGGED_AFTER:
            frame = _next_frame(capture)
            failed = failed + 1 if frame is None else 0
            if frame is not None:
                count += 1
                yield frame
        raise EndedEarlyError(f"camera {number}: no more images after {count}; is it plugged in?")
    finally:
        capture.release()


def _next_frame(capture: Any) -> NDArray[np.uint8] | None:
    there, frame = capture.read()
    return np.ascontiguousarray(frame[..., ::-1], np.uint8) if there else None

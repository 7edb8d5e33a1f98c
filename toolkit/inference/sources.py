"""Sources of images for prediction: files, folders, globs, arrays, PIL images, lists of them.

Nothing is listed as a whole before the first image: folders are read in blocks, archives, videos,
cameras and lists one image after the other.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from toolkit.data.images import is_image_file, read_rgb
from toolkit.errors import DataError, printable
from toolkit.inference import media

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIL_MODES = ("1", "L", "P", "RGB", "RGBA")
_BLOCK = 10_000  # entries of a folder that are sorted at once
OnError: TypeAlias = Callable[[DataError], None]
_KINDS = "a path, a folder, a glob pattern, an array, a PIL image, or a list of these"


@dataclass(frozen=True)
class SourceImage:
    """One image of a source.

    Attributes:
        name: the path below the folder that was named, below the fixed part of a pattern, or below
            the folder that all files and folders of a list share; `image0`, `image1`, … for
            arrays.
        path: its file; below the archive or video that it is part of; None for arrays.
        array: its pixels where it came as an array; a file is decoded by `read`.
        load: decodes what is neither a file nor an array, such as the member of an archive.
    """

    name: str
    path: Path | None = None
    array: NDArray[np.uint8] | None = None
    load: Callable[[], NDArray[np.uint8]] | None = None

    def read(self) -> NDArray[np.uint8]:
        """Return the pixels, RGB uint8 (H, W, 3).

        Raises:
            DataError: the file cannot be read.
        """
        if self.array is not None:
            return self.array
        if self.load is not None:
            return self.load()
        assert self.path is not None
        return read_rgb(self.path)


def iterate_source(source: Any, *, on_error: OnError | None = None) -> Iterator[SourceImage]:
    """Yield the images of a source, one by one; files are not decoded here.

    Example:
        >>> [image.name for image in iterate_source(np.zeros((4, 4, 3), np.uint8))]
        ['image0']

    Args:
        source: a path, a folder (searched recursively), a glob pattern, an array (H, W, 3) RGB or
            (H, W) grey of dtype uint8, a PIL image, or a list or generator of these. A path may
            also name a text file or Parquet of paths, a zip or tar archive, or a video; `-` stands
            for paths from standard input, and digits for a camera.
        on_error: called with the error of a source that ends early, such as a video that is cut
            short; without it the error is raised.

    Raises:
        DataError: there is no such file, a folder or pattern holds no images, the source is empty,
            or an array has another shape or dtype.
    """
    found = 0
    for image in _iterate(source, 0, on_error):
        found += 1
        yield image
    if not found:
        raise DataError("source: holds no images; give a path, a folder, an array or a list")


def as_rgb(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an array as RGB uint8 (H, W, 3); a grey one is repeated over the channels.

    Raises:
        DataError: another dtype than uint8, or another shape.
    """
    if array.dtype != np.uint8:
        raise DataError(
            f"array of dtype {array.dtype}: expected uint8 values from 0 to 255; convert it first"
        )
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DataError(
            f"array of shape {array.shape}: expected (height, width, 3) in RGB order, or "
            "(height, width) for grey"
        )
    return np.ascontiguousarray(array)


def _iterate(source: Any, start: int, on_error: OnError | None) -> Iterator[SourceImage]:
    """Yield the images of a source; arrays are numbered from `start`."""
    if isinstance(source, str | Path):
        try:
            yield from _from_path(source)
        except media.EndedEarlyError as error:
            if on_error is None:
                raise
            on_error(error)
    elif isinstance(source, np.ndarray):
        yield SourceImage(f"image{start}", array=as_rgb(source))
    elif hasattr(source, "convert") and hasattr(source, "mode"):  # PIL, without importing it
        yield SourceImage(f"image{start}", array=_from_pil(source))
    elif isinstance(source, Iterable):
        base = _shared_folder(source)
        for number, one in enumerate(source, start):
            for image in _iterate(one, number, on_error):
                yield image if base is None else _named_below(image, base)
    else:
        raise DataError(f"source of type {type(source).__name__}: expected {_KINDS}")


def _shared_folder(source: Iterable[Any]) -> Path | None:
    """Return the folder below which all files and folders of a list lie; None for fewer than two.

    Images are named below it, so that equal names stay apart. A generator is read once only, and
    has none.
    """
    if not isinstance(source, Sequence):
        return None
    given = [Path(one).expanduser() for one in source if isinstance(one, str | Path)]
    paths = [path for path in given if path.exists() or glob.has_magic(str(path))]
    if len(paths) < 2:
        return None
    return Path(os.path.commonpath([_absolute(_fixed_part(path)) for path in paths]))


def _named_below(image: SourceImage, folder: Path) -> SourceImage:
    """Name an image file below a folder; what is no file of its own keeps its name."""
    if image.path is None or image.array is not None or image.load is not None:
        return image
    path = _absolute(image.path)
    if not path.is_relative_to(folder):
        return image
    return replace(image, name=path.relative_to(folder).as_posix())


def _absolute(path: Path) -> Path:
    """Return the path without `..`, so that no name leads out of the folder of results."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _fixed_part(path: Path) -> Path:
    """Return the folder that a path's images are named below."""
    if path.is_dir():
        return path
    while glob.has_magic(str(path)) and not path.exists():
        path = path.parent
        if not glob.has_magic(str(path)):
            return path
    return path.parent


def _from_path(source: str | Path) -> Iterator[SourceImage]:
    path = Path(source).expanduser()
    if path.is_dir():
        yield from _from_folder(path)
    elif path.exists():
        yield from _from_file(path)
    elif str(source) == "-":
        yield from _listed(media.paths_from_stdin(), Path())
    elif str(source).isdecimal():
        yield from _frames(media.camera_frames(int(str(source))), f"camera{source}")
    elif glob.has_magic(str(path)):
        yield from _from_pattern(path)
    else:
        raise DataError(f"{printable(path)}: no such file or folder; give images")


def _from_folder(folder: Path) -> Iterator[SourceImage]:
    found = False
    for file in image_files(folder):
        found = True
        yield SourceImage(file.relative_to(folder).as_posix(), file)
    if not found:
        raise DataError(f"{printable(folder)}: no images there")


def image_files(folder: Path) -> Iterator[Path]:
    """Yield the image files of a folder and its subfolders, sorted.

    Of a folder with more than 10,000 entries each 10,000 are sorted, so that the first file is
    there at once.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            while block := [entry for _, entry in zip(range(_BLOCK), entries, strict=False)]:
                for entry in sorted(block, key=lambda one: one.name):
                    if entry.is_dir(follow_symlinks=False):
                        yield from image_files(Path(entry.path))
                    elif is_image_file(Path(entry.name)) and entry.is_file():
                        yield Path(entry.path)
    except OSError as error:
        raise DataError(f"{printable(folder)}: cannot be read ({error.strerror})") from error


def _from_file(path: Path) -> Iterator[SourceImage]:
    kind = media.kind_of(path)
    if kind == "list":
        yield from _listed(media.listed_paths(path), path.parent)
    elif kind == "archive":
        for name, load in media.archive_images(path):
            yield SourceImage(name, path / name, load=load)
    elif kind == "video":
        yield from _frames(media.video_frames(path), path.stem, path)
    else:
        yield SourceImage(path.name, path)


def _listed(paths: Iterator[str], folder: Path) -> Iterator[SourceImage]:
    """Yield the images that a list names; relative paths start from `folder`."""
    for text in paths:
        path = folder / Path(text).expanduser()
        parts = [part for part in Path(text).parts if part not in (path.anchor, "..", "~")]
        yield SourceImage("/".join(parts) or "image", path)


def _frames(
    frames: Iterator[NDArray[np.uint8]], name: str, path: Path | None = None
) -> Iterator[SourceImage]:
    for number, frame in enumerate(frames):
        file = f"{number:06d}.png"
        yield SourceImage(f"{name}/{file}", None if path is None else path / file, array=frame)


def _from_pattern(path: Path) -> Iterator[SourceImage]:
    found = False
    for file in sorted(Path(f) for f in glob.iglob(str(path), recursive=True)):  # noqa: PTH207
        if is_image_file(file) and file.is_file():
            found = True
            name = _absolute(file).relative_to(_absolute(_fixed_part(path))).as_posix()
            yield SourceImage(name, file)
    if not found:
        raise DataError(f"{printable(path)}: no image matches this pattern")


def _from_pil(image: Any) -> NDArray[np.uint8]:
    if image.mode not in _PIL_MODES:
        raise DataError(
            f"PIL image of mode {image.mode}: expected one of {', '.join(_PIL_MODES)}; convert it "
            "with image.convert('RGB')"
        )
    return as_rgb(np.asarray(image.convert("RGB")))

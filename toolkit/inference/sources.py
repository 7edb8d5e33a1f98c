"""Sources of images for prediction: files, folders, globs, arrays, PIL images, lists of them."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.images import is_image_file, read_rgb
from toolkit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIL_MODES = ("1", "L", "P", "RGB", "RGBA")


@dataclass(frozen=True)
class SourceImage:
    """One image of a source.

    Attributes:
        name: the path below the folder that was named, or the file name; `image0`, `image1`, …
            for arrays.
        path: its file; None for arrays.
        array: its pixels where it came as an array; a file is decoded by `read`.
    """

    name: str
    path: Path | None = None
    array: NDArray[np.uint8] | None = None

    def read(self) -> NDArray[np.uint8]:
        """Return the pixels, RGB uint8 (H, W, 3).

        Raises:
            DataError: the file cannot be read.
        """
        if self.array is not None:
            return self.array
        assert self.path is not None
        return read_rgb(self.path)


def iterate_source(source: Any) -> Iterator[SourceImage]:
    """Yield the images of a source, one by one; nothing is decoded here.

    Example:
        >>> [image.name for image in iterate_source(np.zeros((4, 4, 3), np.uint8))]
        ['image0']

    Args:
        source: a path, a folder (searched recursively), a glob pattern, an array (H, W, 3) RGB or
            (H, W) grey of dtype uint8, a PIL image, or a list or generator of these.

    Raises:
        DataError: there is no such file, a folder or pattern holds no images, the source is empty,
            or an array has another shape or dtype.
    """
    found = 0
    for image in _iterate(source, 0):
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


def _iterate(source: Any, start: int) -> Iterator[SourceImage]:
    """Yield the images of a source; arrays are numbered from `start`."""
    if isinstance(source, str | Path):
        yield from _from_path(source)
    elif isinstance(source, np.ndarray):
        yield SourceImage(f"image{start}", array=as_rgb(source))
    elif hasattr(source, "convert") and hasattr(source, "mode"):  # PIL, without importing it
        yield SourceImage(f"image{start}", array=_from_pil(source))
    elif isinstance(source, Iterable):
        for number, one in enumerate(source, start):
            yield from _iterate(one, number)
    else:
        raise DataError(
            f"source of type {type(source).__name__}: expected a path, a folder, a glob pattern, "
            "an array, a PIL image, or a list of these"
        )


def _from_path(source: str | Path) -> Iterator[SourceImage]:
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if is_image_file(f) and f.is_file())
        if not files:
            raise DataError(f"{path}: no images there")
        for file in files:
            yield SourceImage(file.relative_to(path).as_posix(), file)
    elif path.exists():
        yield SourceImage(path.name, path)
    elif glob.has_magic(str(path)):
        files = sorted(Path(f) for f in glob.glob(str(path), recursive=True))  # noqa: PTH207
        files = [f for f in files if is_image_file(f) and f.is_file()]
        if not files:
            raise DataError(f"{path}: no image matches this pattern")
        for file in files:
            yield SourceImage(file.name, file)
    else:
        raise DataError(f"{path}: no such file or folder; give images")


def _from_pil(image: Any) -> NDArray[np.uint8]:
    if image.mode not in _PIL_MODES:
        raise DataError(
            f"PIL image of mode {image.mode}: expected one of {', '.join(_PIL_MODES)}; convert it "
            "with image.convert('RGB')"
        )
    return as_rgb(np.asarray(image.convert("RGB")))

"""Decode image files: headers first, then the fastest decoder that is exact.

Nothing here knows what an image is for; see `toolkit.data.images`.
"""

from __future__ import annotations

import os
import struct
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from toolkit.data.types import cannot_read, open_regular
from toolkit.errors import ConfigError, DataError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image as PilImage

MAX_PIXELS = 100_000_000
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_BLOCK = 1 << 20
PNG = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"
_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
PNG_GREY, _PNG_RGB, _PNG_PALETTE = 0, 2, 3
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PNG_HEAD = 33  # bytes: signature and the chunk IHDR
BYTES_PER_PIXEL = 16  # no file of these formats needs more for a pixel


class Header(NamedTuple):
    format: str
    width: int
    height: int
    channels: int


def max_pixels() -> int:
    """Return the largest number of pixels that an image may have.

    Raises:
        ConfigError: `TOOLKIT_MAX_PIXELS` is not a positive whole number.
    """
    text = os.environ.get("TOOLKIT_MAX_PIXELS")
    if text is None:
        return MAX_PIXELS
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise ConfigError(f"TOOLKIT_MAX_PIXELS={printable(text)}: give a number of pixels above 0")
    return int(text)


def read_bytes(path: Path) -> bytes:
    file = open_regular(path)
    try:
        if os.fstat(file).st_size > max_pixels() * BYTES_PER_PIXEL:
            raise DataError(f"{printable(path)}: file is too large for an image; replace it")
        blocks = []
        while block := os.read(file, _BLOCK):
            blocks.append(block)
            if len(block) < _BLOCK:
                break
        return b"".join(blocks)
    except OSError as error:
        raise cannot_read(path, error) from error
    finally:
        os.close(file)


def parse_header(path: Path, source: bytes | Path) -> Header:
    """Parse the header of a file, given as bytes or to be opened by Pillow.

    Raises:
        DataError: this is no image, or it has more pixels than allowed.
    """
    if isinstance(source, bytes) and source[:8] == PNG:
        if len(source) < PNG_HEAD or source[12:16] != b"IHDR" or source[25] not in _PNG_CHANNELS:
            raise unreadable(path, "image")
        width, height = struct.unpack(">II", source[16:24])
        header = Header("PNG", width, height, _PNG_CHANNELS[source[25]])
    else:
        with _open_with_pillow(path, source, "image") as image:
            header = Header(image.format or "", image.width, image.height, len(image.getbands()))
    if header.width * header.height > max_pixels():
        raise DataError(
            f"{printable(path)}: {header.width}x{header.height} pixels are more than the limit of "
            f"{max_pixels()}; use a smaller image, or raise TOOLKIT_MAX_PIXELS"
        )
    return header


def unreadable(path: Path, what: str) -> DataError:
    return DataError(
        f"{printable(path)}: not a readable {what} (damaged or cut short); replace the file"
    )


def _open_with_pillow(path: Path, source: bytes | Path, what: str) -> PilImage.Image:
    """Open an image, of which the header is read."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and max_pixels() > max(
        MAX_PIXELS, Image.MAX_IMAGE_PIXELS
    ):
        Image.MAX_IMAGE_PIXELS = max_pixels()  # Pillow has a limit of its own
    try:
        file = BytesIO(source) if isinstance(source, bytes) else source
        return Image.open(file, formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{printable(path)}: has more pixels than the limit of {max_pixels()}; use a smaller "
            "image, or raise TOOLKIT_MAX_PIXELS"
        ) from error
    except _pillow_errors() as error:
        raise unreadable(path, what) from error


def decode_with_pillow(path: Path, data: bytes, what: str) -> PilImage.Image:
    image = _open_with_pillow(path, data, what)
    try:
        image.load()
    except _pillow_errors() as error:
        raise unreadable(path, what) from error
    return image


def _pillow_errors() -> tuple[type[Exception], ...]:
    # ImportError: where Ultralytics is loaded, it tries to load a plugin for files that are no
    # image. The others are what damaged headers run into.
    return (
        OSError, SyntaxError, ValueError, ImportError, struct.error, TypeError, LookupError,
        ArithmeticError, EOFError, RuntimeError, MemoryError,
    )  # fmt: skip


def decode_with_opencv(data: bytes, *, colour: bool) -> NDArray[Any] | None:
    import cv2

    kind = cv2.IMREAD_COLOR if colour else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return cast("NDArray[Any] | None", image)


@cache
def _kornia() -> Any:
    try:
        from kornia_rs import io
    except ImportError:
        return None
    return io


def decode_quickly(path: Path, data: bytes, header: Header) -> NDArray[np.uint8] | None:
    """Decode an 8-bit grey or RGB PNG or JPEG with `kornia_rs`.

    It inflates PNG several times as fast as libpng and takes every warning of libjpeg-turbo for an
    error.

    Returns:
        uint8 array (H, W, 1 or 3); None if this is another kind of image, or a damaged PNG.

    Raises:
        DataError: the JPEG is damaged.
    """
    is_png = header.format == "PNG"
    if is_png and (data[24] != 8 or data[25] not in (PNG_GREY, _PNG_RGB)):
        return None
    if not is_png and (header.format != "JPEG" or header.channels not in (1, 3)):
        return None
    kornia = _kornia()
    if kornia is None or not header.width * header.height:
        return None
    mode = "mono" if header.channels == 1 else "rgb"
    try:
        if is_png:
            size = (header.height, header.width)
            return cast("NDArray[np.uint8]", kornia.decode_image_png_u8(data, size, mode))
        return cast("NDArray[np.uint8]", kornia.decode_image_jpegturbo(data, mode))
    except Exception as error:  # the library raises nothing narrower
        if is_png:
            return None  # OpenCV reads a few kinds more, or refuses the file too
        raise unreadable(path, "image") from error


def is_cut_short(data: bytes) -> bool:
    """Whether the file ends before its format says that it does."""
    if data[:2] == _JPEG:
        # The end of the image lies behind the start of its scan; that of a thumbnail before it.
        return data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)
    if data[:4] == b"RIFF" and len(data) >= 8:
        return len(data) < 8 + int(struct.unpack("<I", data[4:8])[0])
    if data[:2] == b"BM" and len(data) >= 6:
        return len(data) < int(struct.unpack("<I", data[2:6])[0])
    # OpenCV returns a half-decoded image for a PNG that was cut short. Bytes behind the end are
    # harmless.
    return data[:8] == PNG and not data.endswith(PNG_END) and PNG_END not in data

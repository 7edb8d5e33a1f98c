"""Reading pixels: one place decides how an image or a mask file is decoded.

Masks are decoded with Pillow's modes in mind rather than by OpenCV's colour conversion: a palette
index, a 16-bit value and an alpha channel all have to survive (OpenCV turns palette index 1 into
grey 38, 16-bit 1 into 0, and an opaque alpha channel into "everything").

Plain 8-bit PNGs go through `kornia_rs` where it is installed: it inflates several times as fast as
libpng, and it checks every checksum. Whatever it refuses is decoded, or refused, by OpenCV.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from toolkit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.types import Sample

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_LOSSY = frozenset({".jpg", ".jpeg"})
_LOSSY_THRESHOLD = 127
# ImportError: where Ultralytics is loaded, it answers a file that is no image by loading a plugin.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, ImportError)


def is_image_file(path: Path) -> bool:
    """Whether the file name ends like an image's, in any case."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode an image as RGB.

    Grey images are repeated over three channels; EXIF rotation is not applied, so that pixels stay
    where the mask has them.

    Returns:
        uint8 array (H, W, 3).

    Raises:
        DataError: the file is missing, no image, or cut short.
    """
    import cv2

    data = _bytes(path)
    quick = _decode_png(data)
    if quick is not None:
        return np.repeat(quick, 3, axis=2) if quick.shape[2] == 1 else quick
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None or _is_truncated_png(data):
        raise DataError(f"{path}: not a readable image (damaged or cut short); replace the file")
    return np.ascontiguousarray(image[..., ::-1])


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Decode a mask file: any value but zero is defect (over 127 in a JPEG, which is lossy).

    For colour masks any channel but alpha counts; a fully opaque alpha channel says nothing.

    Returns:
        bool array (H, W).

    Raises:
        DataError: the file is missing, no image, or cut short.
    """
    values = read_mask_values(path)
    threshold = _LOSSY_THRESHOLD if path.suffix.lower() in _LOSSY else 0
    if values.dtype == np.uint8 and values.flags.writeable:
        # In place: fresh pages for the result would cost a third of the decoding.
        truth = values.view(np.bool_)
        np.greater(values, threshold, out=truth)
        return truth
    return values > threshold


def read_mask_values(path: Path) -> NDArray[np.integer]:
    """Decode a mask file to its raw values: grey level, palette index or the channels' maximum.

    Returns:
        integer array (H, W).

    Raises:
        DataError: the file is missing, no image, or cut short.
    """
    data = _bytes(path)
    if _is_truncated_png(data):
        raise DataError(f"{path}: not a readable mask (cut short); replace the file")
    if not _is_plain_png(data):
        return _read_mask_with_pillow(path)
    quick = _decode_png(data)
    if quick is not None:
        return quick[..., 0]
    import cv2

    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    grey = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if grey is None or grey.ndim != 2:
        raise DataError(f"{path}: not a readable mask (damaged); replace the file")
    return cast("NDArray[np.integer]", grey)


def _read_mask_with_pillow(path: Path) -> NDArray[np.integer]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            values = np.asarray(image)
            alpha = image.mode in {"RGBA", "LA", "PA"}
    except _PILLOW_ERRORS as error:
        raise DataError(f"{path}: not a readable mask (damaged); replace the file") from error
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.ndim == 3:
        colour = values[..., :-1] if alpha else values
        values = colour.max(axis=2)
    return values


def image_size(path: Path) -> tuple[int, int, int]:
    """Read width, height and number of channels from a file's header.

    Raises:
        DataError: the file is missing or no image.
    """
    return _header(path)[0]


def whole_image_size(path: Path) -> tuple[int, int, int]:
    """Read width, height and number of channels, and see to it that the file has its end.

    Cheap: for images that are passed on without being decoded. It notices PNG, JPEG, WebP and BMP
    files that were cut short, and no other damage; TIFF is taken as it is.

    Raises:
        DataError: the file is missing, no image, or cut short.
    """
    size, tail = _header(path)
    if tail != _PNG_END and _is_cut_short(_bytes(path)):
        raise DataError(f"{path}: image is cut short; replace the file")
    return size


def _header(path: Path) -> tuple[tuple[int, int, int], bytes | None]:
    """Return the size and, of a PNG, the last bytes."""
    from PIL import Image

    try:
        file = os.open(path, os.O_RDONLY)  # a third of the system calls of `open`
        try:
            head = os.read(file, 26)
            if head[:8] == _PNG and head[12:16] == b"IHDR" and head[-1] in _PNG_CHANNELS:
                os.lseek(file, -len(_PNG_END), os.SEEK_END)
                tail = os.read(file, len(_PNG_END))
                width, height = struct.unpack(">II", head[16:24])
                return (width, height, _PNG_CHANNELS[head[25]]), tail
        finally:
            os.close(file)
        with Image.open(path) as image:
            return (image.width, image.height, len(image.getbands())), None
    except (*_PILLOW_ERRORS, IndexError) as error:
        raise DataError(f"{path}: not a readable image; replace the file") from error


def read_truth(sample: Sample) -> NDArray[np.bool_]:
    """Return the union of a sample's masks; all false for a good image.

    Returns:
        bool array (H, W), of the image's size.

    Raises:
        DataError: a mask cannot be read, or its size is not the image's.
    """
    width, height, _ = image_size(sample.image)
    truth = np.zeros((height, width), dtype=np.bool_)
    for path in sample.masks:
        mask = read_mask(path)
        if mask.shape != truth.shape:
            raise DataError(
                f"{path}: mask is {mask.shape[1]}x{mask.shape[0]} but its image {sample.image.name}"
                f" is {width}x{height}; replace one of them"
            )
        truth |= mask
    return truth


def _bytes(path: Path) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            blocks = []
            while block := os.read(file, _BLOCK):
                blocks.append(block)
                if len(block) < _BLOCK:
                    break
            return b"".join(blocks)
        finally:
            os.close(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


_BLOCK = 1 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG_GREY, _PNG_RGB = 0, 2
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_LARGEST = 1 << 28  # pixels; beyond this a header is more likely a trap than an image


@cache
def _png_decoder() -> Callable[[bytes, tuple[int, int], str], NDArray[np.uint8]] | None:
    try:
        from kornia_rs.io import decode_image_png_u8
    except ImportError:
        return None
    return cast("Callable[[bytes, tuple[int, int], str], NDArray[np.uint8]]", decode_image_png_u8)


def _decode_png(data: bytes) -> NDArray[np.uint8] | None:
    """Decode an 8-bit grey or RGB PNG, (H, W, 1 or 3); None if it is another kind or damaged."""
    if data[:8] != _PNG or len(data) < 33 or data[24] != 8 or data[25] not in (_PNG_GREY, _PNG_RGB):
        return None
    width, height = struct.unpack(">II", data[16:24])
    if not 0 < width * height <= _LARGEST:
        return None
    decode = _png_decoder()
    if decode is None:
        return None
    mode = "mono" if data[25] == _PNG_GREY else "rgb"
    try:
        return decode(data, (height, width), mode)
    except Exception:  # the library raises nothing narrower; OpenCV has the last word
        return None


def _is_plain_png(data: bytes) -> bool:
    """Whether this is a grey PNG of 8 or 16 bits (no palette, colour or alpha)."""
    return data[:8] == _PNG and len(data) > 25 and data[25] == _PNG_GREY and data[24] in (8, 16)


def _is_cut_short(data: bytes) -> bool:
    """Whether the file ends before its format says that it does."""
    if data[:2] == _JPEG:
        # The end of the image lies behind the start of its scan; that of a thumbnail before it.
        return data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)
    if data[:2] == b"BM" and len(data) >= 6:
        return len(data) < int(struct.unpack("<I", data[2:6])[0])
    return _is_truncated_png(data)


def _is_truncated_png(data: bytes) -> bool:
    # OpenCV returns a half-decoded image for a PNG that was cut short. Bytes behind the end are
    # nothing to object to.
    return data[:8] == _PNG and not data.endswith(_PNG_END) and _PNG_END not in data

"""Read images and masks: the one place that decides how a file becomes pixels.

Whatever is read is a regular file of at most `TOOLKIT_MAX_PIXELS` pixels (environment variable;
default 100 million): the header is checked before anything is decoded.

Masks keep their raw values: OpenCV's colour conversion would turn palette index 1 into grey 38,
16-bit 1 into 0, and an opaque alpha channel into a mask of only ones.

Damage is found as far as the format allows. PNG has checksums. A JPEG is refused on any warning of
libjpeg-turbo (through `kornia_rs`; without it only where it was cut short). TIFF, WebP and BMP are
refused where their decoder fails or the file ends too soon.
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

    from toolkit.data.types import Sample

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg"})
MASK_THRESHOLD = 127
"""Level at which masks with grey edges and JPEG masks are cut: values above it are defect."""
MAX_PIXELS = 100_000_000

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_BLOCK = 1 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG_GREY, _PNG_RGB, _PNG_PALETTE = 0, 2, 3
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_HEAD = 33  # bytes: signature and the chunk IHDR
_BYTES_PER_PIXEL = 16  # no file of these formats needs more for a pixel
_MIN_GREY_LEVELS = 5


class _Header(NamedTuple):
    format: str
    width: int
    height: int
    channels: int


def is_image_file(path: Path) -> bool:
    """Whether the file name ends like an image's, in any case."""
    return path.suffix.lower() in IMAGE_SUFFIXES


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


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode an image as RGB.

    Grey images are repeated over three channels. EXIF rotation is not applied, so that pixels stay
    where the mask has them.

    Returns:
        uint8 array (H, W, 3).

    Raises:
        DataError: the file is missing, not an image, damaged, or too large.
    """
    data = _read_bytes(path)
    header = _parse_header(path, data)
    if _is_cut_short(data):
        raise _unreadable(path, "image")
    quick = _decode_quickly(path, data, header)
    if quick is not None:
        return np.repeat(quick, 3, axis=2) if quick.shape[2] == 1 else quick
    if header.format in ("JPEG", "TIFF"):  # OpenCV forgives damage in these
        with _decode_with_pillow(path, data, "image") as image:
            if image.mode in ("L", "RGB"):
                return np.array(image.convert("RGB"))
    bgr = _decode_with_opencv(data, colour=True)
    if bgr is None:
        raise _unreadable(path, "image")
    return np.ascontiguousarray(bgr[..., ::-1])


def read_mask(path: Path, *, threshold: int | None = None) -> NDArray[np.bool_]:
    """Decode a mask file: any value but zero is defect, except in masks with grey edges.

    Anti-aliased masks have grey edges: cutting them at zero would widen each defect and count every
    speck. A mask has grey edges if it is no palette image, its largest 8-bit value is 255, at least
    five different values lie strictly between 0 and 255, one of them above 127, and most pixels of
    these values lie at edges: at least one of their four neighbours has another value. It is cut at
    127, and so is every JPEG. Class-index, 0/1, 0/255, 16-bit and palette masks stay exact.

    For colour masks any channel but alpha counts.

    Args:
        path: the mask file.
        threshold: values above it are defect, whatever the mask looks like; None decides as above.

    Returns:
        bool array (H, W).

    Raises:
        DataError: the file is missing, not an image, damaged, or too large.
    """
    return read_mask_and_edges(path, threshold=threshold)[0]


def read_mask_and_edges(
    path: Path, *, threshold: int | None = None
) -> tuple[NDArray[np.bool_], bool]:
    """Decode a mask as `read_mask` does, and tell whether it was cut for its grey edges."""
    values, is_palette = _read_values(path)
    grey_edges = False
    if threshold is None:
        if path.suffix.lower() in LOSSY_SUFFIXES:
            threshold = MASK_THRESHOLD
        else:
            grey_edges = not is_palette and values.dtype == np.uint8 and has_grey_edges(values)
            threshold = MASK_THRESHOLD if grey_edges else 0
    if values.dtype == np.uint8 and values.flags.writeable:
        # In place: fresh pages for the result would cost a third of the decoding.
        truth = values.view(np.bool_)
        np.greater(values, min(threshold, 255), out=truth)
        return truth, grey_edges
    return values > threshold, grey_edges


def read_mask_values(path: Path) -> NDArray[np.integer]:
    """Decode a mask file to its raw values: grey level, palette index or the channels' maximum.

    Returns:
        integer array (H, W).

    Raises:
        DataError: the file is missing, not an image, damaged, or too large.
    """
    return _read_values(path)[0]


def has_grey_edges(values: NDArray[np.integer]) -> bool:
    """Whether the raw values are those of a mask with grey edges, see `read_mask`.

    Args:
        values: uint8 array (H, W).
    """
    import cv2

    left, top, width, height = cv2.boundingRect(values)
    part = values[top : top + height, left : left + width]
    # Almost every mask is decided here: all values but 0 are 255.
    if not part.size or cv2.countNonZero(part) * 255 == int(cv2.sumElems(part)[0]):
        return False
    counts = np.bincount(part.ravel(), minlength=256)
    between = counts[1:255]
    if (
        not counts[255]
        or np.count_nonzero(between) < _MIN_GREY_LEVELS
        or not counts[MASK_THRESHOLD + 1 : 255].any()
        or between.sum() * 2 > values.size  # a photograph, not a mask
    ):
        return False
    inner = part[1:-1, 1:-1]
    flat = (inner > 0) & (inner < 255)
    for neighbour in (part[:-2, 1:-1], part[2:, 1:-1], part[1:-1, :-2], part[1:-1, 2:]):
        flat &= inner == neighbour
    return bool(flat.sum() * 2 < between.sum())


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
        mask = read_mask(path, threshold=sample.mask_threshold)
        if mask.shape != truth.shape:
            raise wrong_mask_size(path, mask.shape[::-1], sample.image, (width, height))
        truth |= mask
    return truth


def wrong_mask_size(
    mask: Path, mask_wh: tuple[int, ...], image: Path, image_wh: tuple[int, ...]
) -> DataError:
    """Return the error for a mask that is not of its image's size."""
    return DataError(
        f"{printable(mask)}: mask is {mask_wh[0]}x{mask_wh[1]} but its image "
        f"{printable(image.name)} is {image_wh[0]}x{image_wh[1]}; replace one of them"
    )


def image_size(path: Path) -> tuple[int, int, int]:
    """Read width, height and number of channels from a file's header.

    Raises:
        DataError: the file is missing, not an image, or too large.
    """
    file = open_regular(path)
    try:
        head = os.read(file, _PNG_HEAD)
    except OSError as error:
        raise cannot_read(path, error) from error
    finally:
        os.close(file)
    return _parse_header(path, head if head[:8] == _PNG else path)[1:]


def whole_image_size(path: Path, *, decode: bool = False) -> tuple[int, int, int]:
    """Return width, height and channels of an image, and check that the file has its end.

    For images that are passed on without being decoded.

    Args:
        path: the image file.
        decode: whether images of formats without checksums (all but PNG) are decoded, to find
            damage in the middle too.

    Raises:
        DataError: the file is missing, not an image, cut short, damaged, or too large.
    """
    file = open_regular(path)
    try:
        head, tail = os.read(file, _PNG_HEAD), b""
        is_png = head[:8] == _PNG
        if is_png and len(head) == _PNG_HEAD:
            os.lseek(file, -len(_PNG_END), os.SEEK_END)
            tail = os.read(file, len(_PNG_END))
    except OSError as error:
        raise cannot_read(path, error) from error
    finally:
        os.close(file)
    header = _parse_header(path, head if is_png else path)
    if tail != _PNG_END:
        if not is_png and decode:
            read_rgb(path)
        elif _is_cut_short(_read_bytes(path)):
            raise _unreadable(path, "image")
    return header[1:]


def _read_values(path: Path) -> tuple[NDArray[np.integer], bool]:
    """Return the raw values of a mask, and whether they are palette indices."""
    data = _read_bytes(path)
    header = _parse_header(path, data)
    is_png = header.format == "PNG"
    if _is_cut_short(data):
        raise _unreadable(path, "mask")
    if header.channels == 1:
        quick = _decode_quickly(path, data, header)
        if quick is not None:
            return quick[..., 0], False
        if is_png and data[25] == _PNG_GREY and data[24] in (8, 16):
            grey = _decode_with_opencv(data, colour=False)
            if grey is None or grey.ndim != 2:
                raise _unreadable(path, "mask")
            return grey, False
    with _decode_with_pillow(path, data, "mask") as image:
        values = np.asarray(image)
        mode = image.mode
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.ndim == 3:
        values = (values[..., :-1] if mode in {"RGBA", "LA", "PA"} else values).max(axis=2)
    return values, mode in {"P", "PA"}


def _read_bytes(path: Path) -> bytes:
    file = open_regular(path)
    try:
        if os.fstat(file).st_size > max_pixels() * _BYTES_PER_PIXEL:
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


def _parse_header(path: Path, source: bytes | Path) -> _Header:
    """Parse the header of a file, given as bytes or to be opened by Pillow.

    Raises:
        DataError: this is no image, or it has more pixels than allowed.
    """
    if isinstance(source, bytes) and source[:8] == _PNG:
        if len(source) < _PNG_HEAD or source[12:16] != b"IHDR" or source[25] not in _PNG_CHANNELS:
            raise _unreadable(path, "image")
        width, height = struct.unpack(">II", source[16:24])
        header = _Header("PNG", width, height, _PNG_CHANNELS[source[25]])
    else:
        with _open_with_pillow(path, source, "image") as image:
            header = _Header(image.format or "", image.width, image.height, len(image.getbands()))
    if header.width * header.height > max_pixels():
        raise DataError(
            f"{printable(path)}: {header.width}x{header.height} pixels are more than the limit of "
            f"{max_pixels()}; use a smaller image, or raise TOOLKIT_MAX_PIXELS"
        )
    return header


def _unreadable(path: Path, what: str) -> DataError:
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
        raise _unreadable(path, what) from error


def _decode_with_pillow(path: Path, data: bytes, what: str) -> PilImage.Image:
    image = _open_with_pillow(path, data, what)
    try:
        image.load()
    except _pillow_errors() as error:
        raise _unreadable(path, what) from error
    return image


def _pillow_errors() -> tuple[type[Exception], ...]:
    # ImportError: where Ultralytics is loaded, it tries to load a plugin for files that are no
    # image. The others are what damaged headers run into.
    return (
        OSError, SyntaxError, ValueError, ImportError, struct.error, TypeError, LookupError,
        ArithmeticError, EOFError, RuntimeError, MemoryError,
    )  # fmt: skip


def _decode_with_opencv(data: bytes, *, colour: bool) -> NDArray[Any] | None:
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


def _decode_quickly(path: Path, data: bytes, header: _Header) -> NDArray[np.uint8] | None:
    """Decode an 8-bit grey or RGB PNG or JPEG with `kornia_rs`.

    It inflates PNG several times as fast as libpng and takes every warning of libjpeg-turbo for an
    error.

    Returns:
        uint8 array (H, W, 1 or 3); None if this is another kind of image, or a damaged PNG.

    Raises:
        DataError: the JPEG is damaged.
    """
    is_png = header.format == "PNG"
    if is_png and (data[24] != 8 or data[25] not in (_PNG_GREY, _PNG_RGB)):
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
        raise _unreadable(path, "image") from error


def _is_cut_short(data: bytes) -> bool:
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
    return data[:8] == _PNG and not data.endswith(_PNG_END) and _PNG_END not in data

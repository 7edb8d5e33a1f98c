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
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.decoding import (
    PNG,
    PNG_END,
    PNG_GREY,
    PNG_HEAD,
    decode_quickly,
    decode_with_opencv,
    decode_with_pillow,
    is_cut_short,
    parse_header,
    read_bytes,
    unreadable,
)
from toolkit.data.marks import marked_regions
from toolkit.data.regions import regions_of
from toolkit.data.types import cannot_read, open_regular
from toolkit.errors import DataError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.regions import Region
    from toolkit.data.types import Sample

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg"})
MASK_THRESHOLD = 127
"""Level at which masks with grey edges and JPEG masks are cut: values above it are defect."""

_MIN_GREY_LEVELS = 5


def is_image_file(path: Path) -> bool:
    """Whether the file name ends like an image's, in any case."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode an image as RGB.

    Grey images are repeated over three channels. EXIF rotation is not applied, so that pixels stay
    where the mask has them.

    Returns:
        uint8 array (H, W, 3).

    Raises:
        DataError: the file is missing, not an image, damaged, or too large.
    """
    return decode_rgb(path, read_bytes(path))


def decode_rgb(path: Path, data: bytes) -> NDArray[np.uint8]:
    """Decode the content of an image file as `read_rgb` does.

    Args:
        path: for error messages.
        data: the content.

    Raises:
        DataError: it is no image, damaged, or too large.
    """
    header = parse_header(path, data)
    if is_cut_short(data):
        raise unreadable(path, "image")
    quick = decode_quickly(path, data, header)
    if quick is not None:
        return np.repeat(quick, 3, axis=2) if quick.shape[2] == 1 else quick
    if header.format in ("JPEG", "TIFF"):  # OpenCV forgives damage in these
        with decode_with_pillow(path, data, "image") as image:
            if image.mode in ("L", "RGB"):
                return np.array(image.convert("RGB"))
    bgr = decode_with_opencv(data, colour=True)
    if bgr is None:
        raise unreadable(path, "image")
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

    A defect of which only the box is known is the whole box; see `Sample.has_mask`.

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
    for _, region in marked_regions(sample.marks, (width, height), path=sample.image):
        truth[region.window] |= region.crop
    return truth


def read_regions(sample: Sample) -> list[tuple[str, Region]]:
    """Return the defect type and the region of each defect of a sample; none of a good one.

    A region is a connected component of the union of the masks, or one mark of an annotation file:
    where only its box is known, the whole box.

    Raises:
        DataError: a mask or an outline cannot be read, or is not of the image's size.
    """
    if sample.masks:
        return [(sample.label, region) for region in regions_of(read_truth(sample))]
    if not sample.marks:
        return []
    size = image_size(sample.image)[:2]
    return marked_regions(sample.marks, size, path=sample.image)


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
        head = os.read(file, PNG_HEAD)
    except OSError as error:
        raise cannot_read(path, error) from error
    finally:
        os.close(file)
    return parse_header(path, head if head[:8] == PNG else path)[1:]


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
        head, tail = os.read(file, PNG_HEAD), b""
        is_png = head[:8] == PNG
        if is_png and len(head) == PNG_HEAD:
            os.lseek(file, -len(PNG_END), os.SEEK_END)
            tail = os.read(file, len(PNG_END))
    except OSError as error:
        raise cannot_read(path, error) from error
    finally:
        os.close(file)
    header = parse_header(path, head if is_png else path)
    if tail != PNG_END:
        if not is_png and decode:
            read_rgb(path)
        elif is_cut_short(read_bytes(path)):
            raise unreadable(path, "image")
    return header[1:]


def _read_values(path: Path) -> tuple[NDArray[np.integer], bool]:
    """Return the raw values of a mask, and whether they are palette indices."""
    data = read_bytes(path)
    header = parse_header(path, data)
    is_png = header.format == "PNG"
    if is_cut_short(data):
        raise unreadable(path, "mask")
    if header.channels == 1:
        quick = decode_quickly(path, data, header)
        if quick is not None:
            return quick[..., 0], False
        if is_png and data[25] == PNG_GREY and data[24] in (8, 16):
            grey = decode_with_opencv(data, colour=False)
            if grey is None or grey.ndim != 2:
                raise unreadable(path, "mask")
            return grey, False
    with decode_with_pillow(path, data, "mask") as image:
        values = np.asarray(image)
        mode = image.mode
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.ndim == 3:
        values = (values[..., :-1] if mode in {"RGBA", "LA", "PA"} else values).max(axis=2)
    return values, mode in {"P", "PA"}

"""Extract the labelled regions of one image: decode, check, split, merge, drop, resize."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.decoding import max_pixels
from toolkit.data.images import (
    LOSSY_SUFFIXES,
    read_mask_and_edges,
    read_mask_values,
    whole_image_size,
    wrong_mask_size,
)
from toolkit.data.marks import marked_regions
from toolkit.data.regions import Region, regions_of, union_box
from toolkit.data.types import GOOD
from toolkit.errors import DataError, ToolkitError, printable
from toolkit.formats.report import Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.regions import Box
    from toolkit.formats.options import ClassMap, Options
    from toolkit.formats.pipeline import Entry

BELOW_MIN_AREA = "region below min-area"
NO_CLASS = "region of a class mapped to nothing"
NO_CLASS_IMAGE = "image of a class mapped to nothing"
NOTHING_LEFT = "defect image with no region left"


@dataclass(frozen=True, slots=True)
class Labelled:
    """One region and its class."""

    class_index: int
    region: Region
    is_box: bool = False  # nothing but its box is known


@dataclass(slots=True)
class Item:
    """One image: its regions before it is written, its counts afterwards.

    Attributes:
        entry: the image and its place in the output.
        size_wh: width and height in the output.
        source_wh: width and height of the image file.
        labelled: its regions; none for a background image.
        found: number of connected components before merging and dropping.
        merged: components that were joined to another.
        dropped: what was left out, per reason.
        grey_edges: number of masks that were cut for their grey edges.
        problem: what is wrong with the input; such an image is not written.
        left_out: whether the image is not written though nothing is wrong with it.
        regions: number of regions written, per class index.
        written: whether the image is in the output.
        payload: what `Writer.encode` returned.
    """

    entry: Entry
    size_wh: tuple[int, int] = (0, 0)
    source_wh: tuple[int, int] = (0, 0)
    labelled: list[Labelled] = field(default_factory=list)
    found: int = 0
    merged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problem: Problem | None = None
    left_out: bool = False
    grey_edges: int = 0
    regions: Counter[int] = field(default_factory=Counter)
    written: bool = False
    payload: Any = None


class _BadInputError(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(kind, message)


def extract(
    entry: Entry,
    *,
    classes: ClassMap,
    options: Options,
    with_masks: bool = True,
    needs_outlines: bool = False,
) -> Item:
    """Read one image's size and masks and return its labelled regions.

    Args:
        entry: the image.
        classes: index of each label.
        options: the conversion's options.
        with_masks: whether the target needs regions.
        needs_outlines: whether boxes alone are too little for it.
    """
    item = Item(entry)
    try:
        item.source_wh = item.size_wh = whole_image_size(entry.sample.image, decode=True)[:2]
        if options.image_size is not None:
            item.size_wh = resized_wh(item.source_wh, options.image_size)
            if item.size_wh[0] * item.size_wh[1] > max_pixels():
                raise DataError(
                    f"{printable(entry.sample.image)}: has more than {max_pixels()} pixels when "
                    "resized; use a smaller --image-size, or raise TOOLKIT_MAX_PIXELS"
                )
        if with_masks and entry.sample.marks:
            _add_marks(item, classes, options, needs_outlines=needs_outlines)
        elif with_masks and (entry.sample.is_defect or entry.sample.masks):
            _add_regions(item, classes, options)
        elif entry.sample.is_defect and classes.index[entry.sample.label] is None:
            item.dropped[NO_CLASS_IMAGE] += 1
            item.left_out = True
    except ToolkitError as error:
        item.problem = Problem("unreadable", str(error))
    except _BadInputError as error:
        item.problem = error.problem
    return item


def _add_regions(item: Item, classes: ClassMap, options: Options) -> None:
    sample = item.entry.sample
    if not sample.masks:
        raise _BadInputError(
            "no mask",
            f"{printable(sample.image)}: defect image without a mask; add one or remove the image",
        )
    by_label = _masks_by_label(item, options)
    for label, mask in by_label.items():
        regions = regions_of(mask, connectivity=options.connectivity)
        item.found += len(regions)
        if sum(r.area for r in regions) == mask.size:
            raise _BadInputError(
                "full mask",
                f"{printable(sample.masks[0])}: every pixel is defect; redraw it or remove "
                "the image",
            )
        _add_labelled(item, regions, classes.index[label], options)
    if not item.found:
        raise _BadInputError(
            "empty mask",
            f"{printable(sample.masks[0])}: no pixel is defect; redraw it, or remove it if "
            "the image is good",
        )
    if not item.labelled:
        item.dropped[NOTHING_LEFT] += 1
        item.left_out = True  # as a background it would teach that the defect is good


def _add_marks(item: Item, classes: ClassMap, options: Options, *, needs_outlines: bool) -> None:
    """Add one region per mark of an annotation file."""
    sample = item.entry.sample
    if needs_outlines and not sample.has_mask:
        raise _BadInputError(
            "boxes only",
            f"{printable(sample.image)}: only boxes are labelled; convert to yolo, coco or "
            "imagefolder, or label outlines",
        )
    if options.mask_values is not None:
        raise _BadInputError(
            "mask value", f"{printable(sample.image)}: has no mask; convert without --mask-values"
        )
    found = marked_regions(sample.marks, item.source_wh, path=sample.image)
    item.found = len(found)
    for (label, region), mark in zip(found, sample.marks, strict=True):
        is_box = not mark.has_outline
        _add_labelled(item, [region], classes.index[label], options, is_box=is_box)
    if not item.labelled:
        item.dropped[NOTHING_LEFT] += 1
        item.left_out = True


def _add_labelled(
    item: Item,
    regions: list[Region],
    index: int | None,
    options: Options,
    *,
    is_box: bool = False,
) -> None:
    if options.merge_distance:
        before = len(regions)
        regions = merge(regions, distance=options.merge_distance)
        item.merged += before - len(regions)
    for region in regions:
        if index is None:
            item.dropped[NO_CLASS] += 1
        elif region.area < options.min_area:
            item.dropped[BELOW_MIN_AREA] += 1
        else:
            if item.size_wh != item.source_wh:
                region = resize(region, from_wh=item.source_wh, to_wh=item.size_wh)
            item.labelled.append(Labelled(index, region, is_box))


def _masks_by_label(item: Item, options: Options) -> dict[str, NDArray[np.bool_]]:
    """Return the union of the image's masks, per label."""
    sample = item.entry.sample
    by_label: dict[str, NDArray[np.bool_]] = {}
    for path in sample.masks:
        if options.mask_values is None:
            if sample.label == GOOD:
                raise _BadInputError(
                    "label",
                    f"{printable(path)}: mask of an image labelled good; move the image or "
                    "remove it",
                )
            threshold = options.mask_threshold
            threshold = sample.mask_threshold if threshold is None else threshold
            mask, grey_edges = read_mask_and_edges(path, threshold=threshold)
            item.grey_edges += grey_edges
            found = {sample.label: mask}
        else:
            found = _by_value(path, options.mask_values)
        for label, mask in found.items():
            if mask.shape[::-1] != item.source_wh:
                error = wrong_mask_size(path, mask.shape[::-1], sample.image, item.source_wh)
                raise _BadInputError("wrong size", str(error))
            by_label[label] = by_label[label] | mask if label in by_label else mask
    return by_label


def _by_value(path: Path, names: Mapping[int, str]) -> dict[str, NDArray[np.bool_]]:
    if path.suffix.lower() in LOSSY_SUFFIXES:
        raise _BadInputError(
            "mask value", f"{printable(path)}: JPEG blurs class indices; store the mask as PNG"
        )
    values = read_mask_values(path)
    found: dict[str, NDArray[np.bool_]] = {}
    for value in np.unique(values):
        if value == 0:
            continue
        if int(value) not in names:
            raise _BadInputError(
                "mask value",
                f"{printable(path)}: value {value} has no class; add it to --mask-values",
            )
        name = names[int(value)]
        mask = values == value
        found[name] = found[name] | mask if name in found else mask
    return found or {next(iter(names.values())): values > 0}


def merge(regions: Sequence[Region], *, distance: float) -> list[Region]:
    """Join regions whose nearest pixels are at most `distance` apart, also in chains.

    Distance is Euclidean and between pixel centres: two regions with one empty pixel between them
    are 2 apart.
    """
    groups = list(range(len(regions)))

    def root(i: int) -> int:
        while groups[i] != i:
            groups[i] = groups[groups[i]]
            i = groups[i]
        return i

    for i in range(len(regions)):
        for j in range(i):
            if root(i) != root(j) and _near(regions[i], regions[j], distance):
                groups[root(i)] = root(j)
    members: dict[int, list[Region]] = {}
    for i, region in enumerate(regions):
        members.setdefault(root(i), []).append(region)
    return [join(group) for group in members.values()]


def _near(a: Region, b: Region, distance: float) -> bool:
    """Whether two regions have pixels at most `distance` apart."""
    reach = int(np.ceil(distance))
    x0, y0, x1, y1 = a.box_xyxy
    grown = (x0 - reach, y0 - reach, x1 + reach, y1 + reach)
    bx0, by0, bx1, by1 = b.box_xyxy
    if bx0 >= grown[2] or grown[0] >= bx1 or by0 >= grown[3] or grown[1] >= by1:
        return False
    import cv2

    # Distance of every pixel of the grown box to `a`, read at the pixels of `b`.
    outside = np.ones((grown[3] - grown[1], grown[2] - grown[0]), dtype=np.uint8)
    outside[reach : reach + y1 - y0, reach : reach + x1 - x0] -= a.crop
    far = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    cx0, cy0 = max(bx0, grown[0]), max(by0, grown[1])
    cx1, cy1 = min(bx1, grown[2]), min(by1, grown[3])
    part = b.crop[cy0 - by0 : cy1 - by0, cx0 - bx0 : cx1 - bx0]
    there = far[cy0 - grown[1] : cy1 - grown[1], cx0 - grown[0] : cx1 - grown[0]]
    # Squares between pixel centres are whole numbers; their roots come rounded to float32.
    exact = np.sqrt(np.rint(there[part].astype(np.float64) ** 2))
    return bool((exact <= distance).any())


def join(regions: Sequence[Region]) -> Region:
    """Return the union of regions that share no pixel."""
    if len(regions) == 1:
        return regions[0]
    box = union_box([r.box_xyxy for r in regions])
    crop = np.zeros((box[3] - box[1], box[2] - box[0]), dtype=np.bool_)
    for region in regions:
        x0, y0, x1, y1 = region.box_xyxy
        crop[y0 - box[1] : y1 - box[1], x0 - box[0] : x1 - box[0]] |= region.crop
    return Region(box_xyxy=box, area=sum(r.area for r in regions), crop=crop)


def resized_wh(size_wh: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return the size with its longest side set to `longest`, the aspect kept, at least 1 pixel."""
    width, height = size_wh
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize(region: Region, *, from_wh: tuple[int, int], to_wh: tuple[int, int]) -> Region:
    """Resize a region with its image.

    A new pixel belongs to the region if its centre, taken back to the old image, lies on a pixel
    of it. A region that no centre falls on becomes one pixel: it never vanishes.
    """
    xs = _sources(region.box_xyxy[0], region.box_xyxy[2], old=from_wh[0], new=to_wh[0])
    ys = _sources(region.box_xyxy[1], region.box_xyxy[3], old=from_wh[1], new=to_wh[1])
    x_new, x_old = xs
    y_new, y_old = ys
    crop = region.crop[np.ix_(y_old, x_old)]
    if not crop.any():
        y, x = (int(v) for v in np.argwhere(region.crop)[region.area // 2])
        x = min(to_wh[0] - 1, int((region.box_xyxy[0] + x + 0.5) * to_wh[0] / from_wh[0]))
        y = min(to_wh[1] - 1, int((region.box_xyxy[1] + y + 0.5) * to_wh[1] / from_wh[1]))
        return Region(box_xyxy=(x, y, x + 1, y + 1), area=1, crop=np.ones((1, 1), dtype=np.bool_))
    return _tight(crop, left=int(x_new[0]), top=int(y_new[0]))


def _sources(
    start: int, stop: int, *, old: int, new: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """New pixel indices whose centres fall into [start, stop), and the old indices inside it."""
    indices = np.arange(new, dtype=np.int64)
    centres = (2 * indices + 1) * old // (2 * new)
    inside = (centres >= start) & (centres < stop)
    return indices[inside], centres[inside] - start


def _tight(crop: np.ndarray[tuple[int, int], np.dtype[np.bool_]], *, left: int, top: int) -> Region:
    rows, columns = np.flatnonzero(crop.any(axis=1)), np.flatnonzero(crop.any(axis=0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    box: Box = (left + x0, top + y0, left + x1, top + y1)
    inner = crop[y0:y1, x0:x1]
    return Region(box_xyxy=box, area=int(inner.sum()), crop=inner)

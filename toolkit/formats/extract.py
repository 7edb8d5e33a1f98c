"""One image to its labelled regions: decode, check, split, map to classes, merge, drop, resize."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.images import read_mask, read_mask_values, whole_image_size
from toolkit.data.regions import Region, regions_of
from toolkit.data.types import GOOD
from toolkit.errors import ToolkitError
from toolkit.formats.geometry import merged, resized, resized_wh
from toolkit.formats.report import Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.formats.classes import ClassMap
    from toolkit.formats.options import Options
    from toolkit.formats.selection import Entry

BELOW_MIN_AREA = "region below min-area"
NO_CLASS = "region of a class mapped to nothing"
NO_CLASS_IMAGE = "image of a class mapped to nothing"
NOTHING_LEFT = "defect image with no region left"


@dataclass(frozen=True, slots=True)
class Labelled:
    """One region and its class."""

    class_index: int
    region: Region


@dataclass(slots=True)
class Item:
    """One image, ready to be written.

    Attributes:
        entry: the image and its place in the output.
        size_wh: width and height in the output.
        source_wh: width and height of the image file.
        labelled: its regions; none for a background image.
        found: number of connected components before merging and dropping.
        merged: components that were joined to another.
        dropped: what was left out, per reason.
        problem: what is wrong with the input; such an image is not written.
        left_out: whether the image is not written though nothing is wrong with it.
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


class _BadInputError(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(kind, message)


def extract(entry: Entry, *, classes: ClassMap, options: Options, with_masks: bool = True) -> Item:
    """Read one image's size and masks and return its labelled regions.

    Args:
        entry: the image.
        classes: index of each label.
        options: connectivity, areas and the rest.
        with_masks: whether the target wants regions at all.
    """
    item = Item(entry)
    try:
        item.source_wh = item.size_wh = whole_image_size(entry.sample.image)[:2]
        if options.image_size is not None:
            item.size_wh = resized_wh(item.source_wh, options.image_size)
        if with_masks and (entry.sample.is_defect or entry.sample.masks):
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
            "no mask", f"{sample.image}: defect image without a mask; add one or remove the image"
        )
    by_label = _masks_by_label(item, options)
    for label, mask in by_label.items():
        regions = regions_of(mask, connectivity=options.connectivity)
        item.found += len(regions)
        if sum(r.area for r in regions) == mask.size:
            raise _BadInputError(
                "full mask", f"{sample.masks[0]}: mask of only ones; redraw it or remove the image"
            )
        _add_labelled(item, regions, classes.index[label], options)
    if not item.found:
        raise _BadInputError(
            "empty mask",
            f"{sample.masks[0]}: mask of only zeros; redraw it, or remove it if the image is good",
        )
    if not item.labelled:
        item.dropped[NOTHING_LEFT] += 1
        item.left_out = True  # as a background it would teach that the defect is good


def _add_labelled(item: Item, regions: list[Region], index: int | None, options: Options) -> None:
    if options.merge_distance:
        before = len(regions)
        regions = merged(regions, distance=options.merge_distance)
        item.merged += before - len(regions)
    for region in regions:
        if index is None:
            item.dropped[NO_CLASS] += 1
        elif region.area < options.min_area:
            item.dropped[BELOW_MIN_AREA] += 1
        else:
            if item.size_wh != item.source_wh:
                region = resized(region, from_wh=item.source_wh, to_wh=item.size_wh)
            item.labelled.append(Labelled(index, region))


def _masks_by_label(item: Item, options: Options) -> dict[str, NDArray[np.bool_]]:
    """Return the union of the image's masks, per label."""
    sample = item.entry.sample
    by_label: dict[str, NDArray[np.bool_]] = {}
    for path in sample.masks:
        if options.mask_values is None:
            if sample.label == GOOD:
                raise _BadInputError(
                    "label", f"{path}: mask of an image labelled good; move the image or remove it"
                )
            found = {sample.label: read_mask(path)}
        else:
            found = _by_value(path, options.mask_values)
        for label, mask in found.items():
            _check_size(path, mask, item)
            by_label[label] = by_label[label] | mask if label in by_label else mask
    return by_label


def _by_value(path: Path, names: Mapping[int, str]) -> dict[str, NDArray[np.bool_]]:
    if path.suffix.lower() in {".jpg", ".jpeg"}:
        raise _BadInputError(
            "mask value", f"{path}: JPEG blurs class indices; store the mask as PNG"
        )
    values = read_mask_values(path)
    found: dict[str, NDArray[np.bool_]] = {}
    for value in np.unique(values):
        if value == 0:
            continue
        if int(value) not in names:
            raise _BadInputError(
                "mask value", f"{path}: value {value} has no class; add it to --mask-values"
            )
        name = names[int(value)]
        mask = values == value
        found[name] = found[name] | mask if name in found else mask
    return found or {next(iter(names.values())): values > 0}


def _check_size(path: Path, mask: NDArray[np.bool_], item: Item) -> None:
    width, height = item.source_wh
    if mask.shape != (height, width):
        raise _BadInputError(
            "wrong size",
            f"{path}: mask is {mask.shape[1]}x{mask.shape[0]} but its image "
            f"{item.entry.sample.image.name} is {width}x{height}; replace one of them",
        )

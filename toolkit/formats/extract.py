"""One image to its labelled regions: decode, check, split, map to classes, merge, drop, resize."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.data.images import image_size, read_mask
from toolkit.data.regions import Region, regions_of
from toolkit.errors import ToolkitError
from toolkit.formats.report import Problem

if TYPE_CHECKING:
    from toolkit.formats.options import Options
    from toolkit.formats.selection import Entry


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
        dropped: regions left out, per reason.
        problem: why the image cannot be used; such an image is not written.
    """

    entry: Entry
    size_wh: tuple[int, int] = (0, 0)
    source_wh: tuple[int, int] = (0, 0)
    labelled: list[Labelled] = field(default_factory=list)
    found: int = 0
    merged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problem: Problem | None = None


def extract(entry: Entry, *, class_index: Mapping[str, int | None], options: Options) -> Item:
    """Read the masks of one image and return its labelled regions.

    Args:
        entry: the image.
        class_index: index of each label; None drops the label.
        options: connectivity, areas and the rest.
    """
    item = Item(entry)
    sample = entry.sample
    try:
        width, height, _ = image_size(sample.image)
        item.source_wh = item.size_wh = (width, height)
        masks = [(path, read_mask(path)) for path in sample.masks]
    except ToolkitError as error:
        item.problem = Problem("unreadable", str(error))
        return item
    if sample.is_defect and not masks:
        item.problem = Problem(
            "no mask", f"{sample.image}: defect image without a mask; add one or remove the image"
        )
        return item
    whole = None
    for path, mask in masks:
        if mask.shape != (height, width):
            item.problem = _wrong_size(path, mask.shape, item)
            return item
        whole = mask if whole is None else whole | mask
    if whole is None:
        return item
    regions = regions_of(whole, connectivity=options.connectivity)
    item.found = len(regions)
    if not regions:
        item.problem = Problem(
            "empty mask", f"{sample.masks[0]}: mask of only zeros; redraw it or remove the image"
        )
        return item
    if len(regions) == 1 and regions[0].area == width * height:
        item.problem = Problem(
            "full mask", f"{sample.masks[0]}: mask covers the whole image; redraw or remove it"
        )
        return item
    index = class_index[sample.label]
    for region in regions:
        if index is None:
            item.dropped["class mapped to nothing"] += 1
        elif region.area < options.min_area:
            item.dropped["below min-area"] += 1
        else:
            item.labelled.append(Labelled(index, region))
    return item


def _wrong_size(path: Path, shape: tuple[int, ...], item: Item) -> Problem:
    width, height = item.source_wh
    return Problem(
        "wrong size",
        f"{path}: mask is {shape[1]}x{shape[0]} but its image {item.entry.sample.image.name} is "
        f"{width}x{height}; replace one of them",
    )

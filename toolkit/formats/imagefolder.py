"""Format `imagefolder`: one folder per class, as torchvision's `ImageFolder` reads it.

    {train,val,test}/{good,<class>}/<stem>.png

Masks are not read, unless they hold the class (`--mask-values`): then the image gets the class with
the most pixels.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.data.types import GOOD
from toolkit.errors import ConfigError
from toolkit.formats.pipeline import PARTS, Job, place_image

if TYPE_CHECKING:
    from toolkit.formats.extract import Item
    from toolkit.formats.pipeline import Entry


class ImageFolderWriter:
    """Sorts images into class folders."""

    needs_outlines = False
    takes_good = True

    def __init__(self, folder: Path, job: Job) -> None:
        self.job = job
        self.needs_masks = job.options.mask_values is not None
        self._folder = folder
        for name in job.classes:
            if name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
                raise ConfigError(
                    f"class {name!r}: cannot be the name of a folder; rename it with --classes"
                )
        for part in PARTS:
            for name in (GOOD, *job.classes):
                (folder / part / name).mkdir(parents=True, exist_ok=True)

    def encode(self, item: Item) -> None:
        """Place the image in the folder of its class."""
        name = self._class_of(item)
        if name is not None:
            place_image(item, self._folder / item.entry.part / name, self.job)

    def _class_of(self, item: Item) -> str | None:
        sample = item.entry.sample
        if self.needs_masks and item.labelled:
            pixels: Counter[int] = Counter()
            for one in item.labelled:
                pixels[one.class_index] += one.region.area
            return self.job.classes[pixels.most_common(1)[0][0]]
        if not sample.is_defect:
            return GOOD
        index = self.job.class_map.index[sample.label]
        return None if index is None else self.job.classes[index]

    def collect(self, entry: Entry, payload: None) -> None:
        """Do nothing: every image has its own file."""

    def finish(self) -> None:
        """Do nothing: the folders are the format."""

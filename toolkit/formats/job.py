"""What every target needs to know of a conversion, and how an image gets into the output."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from toolkit.data.types import Dataset
from toolkit.files import OutputError
from toolkit.formats.options import Options

if TYPE_CHECKING:
    from toolkit.formats.classes import ClassMap
    from toolkit.formats.extract import Item
    from toolkit.formats.selection import Entry


@dataclass(frozen=True)
class Job:
    """One conversion.

    Attributes:
        dataset: what is converted.
        out: where the output will finally lie; while it is made it lies elsewhere.
        options: as given.
        class_map: class names, and the index of each label.
        prompts: a readable phrase per class.
        counts: number of images chosen per part.
        fingerprint: of the data set.
        split_hash: of the split, if there is one.
        fold: of the split, if there is one.
    """

    dataset: Dataset
    out: Path
    options: Options
    class_map: ClassMap
    prompts: tuple[str, ...]
    counts: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    split_hash: str | None = None
    fold: int | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices."""
        return self.class_map.names

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts, all three of them, also where one is empty."""
        return ("train", "val", "test")


class Writer(Protocol):
    """What a target offers: made with the folder to fill and the job.

    Attributes:
        job: as given.
        needs_masks: whether masks are read at all.
        takes_good: whether images without a defect have a place in the format.
    """

    job: Job
    needs_masks: bool
    takes_good: bool

    def __init__(self, folder: Path, job: Job) -> None: ...

    def encode(self, item: Item) -> Any:
        """Write what belongs to one image, return what `collect` needs; in any process."""

    def collect(self, entry: Entry, payload: Any) -> None:
        """Take what `encode` returned; in the first process, in the order of the images."""

    def finish(self) -> None:
        """Write what belongs to the whole data set."""


def place_image(item: Item, folder: Path, job: Job) -> Path:
    """Link, copy or resize the image into the folder and return its path there.

    Raises:
        OutputError: a hard link is not possible here.
    """
    source = item.entry.sample.image
    suffix = source.suffix.lower()
    if item.size_wh != item.source_wh:
        return _resized(item, folder)
    target = folder / f"{item.entry.stem}{suffix}"
    if job.options.images == "copy":
        shutil.copyfile(source, target)
    elif job.options.images == "hardlink":
        try:
            target.hardlink_to(source.resolve())
        except OSError as error:
            raise OutputError(
                f"{source}: cannot be hard-linked ({error.strerror}); use --images copy"
            ) from error
    else:
        os.symlink(os.path.abspath(source), target)  # noqa: PTH100, PTH211 - half the time of Path
    return target


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new small file, with as few system calls as there can be."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        while data:
            data = data[os.write(file, data) :]
    finally:
        os.close(file)


def _resized(item: Item, folder: Path) -> Path:
    import cv2

    from toolkit.data.images import read_rgb

    image = read_rgb(item.entry.sample.image)
    small = cv2.resize(image, item.size_wh, interpolation=cv2.INTER_AREA)
    target = folder / f"{item.entry.stem}.png"
    done, data = cv2.imencode(".png", small[..., ::-1])
    if not done:
        raise OutputError(f"{target}: cannot be encoded; convert without --image-size")
    target.write_bytes(data.tobytes())
    return target

"""The types that every room shares. Nothing here opens an image."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from toolkit.errors import DataError, printable

GOOD = "good"
"""Label of an image without a defect."""


COMBINED = "combined"
"""Label of an image with defects of several types."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A defect that an annotation file (YOLO, COCO) marks: its box, and its outline if it has one.

    Attributes:
        label: the defect type.
        box: `(x0, y0, x1, y1)`, as fractions of the image's sides.
        polygons: rings `(x, y, x, y, …)`, as fractions; empty without an outline.
        rle: COCO's run lengths `(height, width, counts)`, if the outline is given by them.
    """

    label: str
    box: tuple[float, float, float, float]
    polygons: tuple[tuple[float, ...], ...] = ()
    rle: tuple[int, int, str] | None = None

    @property
    def has_outline(self) -> bool:
        """Whether more than the box is known."""
        return bool(self.polygons) or self.rle is not None


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known of it.

    Attributes:
        id: the image's path below the data set's root, with forward slashes; unique.
        image: the image file.
        label: `good`, or the defect type.
        masks: ground-truth mask files (0..n); their union is the defect.
        part: the part that the data set's authors put it in, `train` or `test`.
        mask_threshold: values above it are defect in the masks; None: see
            `toolkit.data.images.read_mask`.
        marks: the defects of an annotation file, in place of masks.
    """

    id: str
    image: Path
    label: str
    masks: tuple[Path, ...] = ()
    part: str = "test"
    mask_threshold: int | None = None
    marks: tuple[Mark, ...] = ()

    @property
    def is_defect(self) -> bool:
        """Whether the label is a defect type."""
        return self.label != GOOD

    @property
    def has_boxes(self) -> bool:
        """Whether it is known where its defects are."""
        return bool(self.masks or self.marks)

    @property
    def has_mask(self) -> bool:
        """Whether the pixels of its defects are known, and not only their boxes."""
        return bool(self.masks) or (bool(self.marks) and all(m.has_outline for m in self.marks))

    @property
    def region_labels(self) -> tuple[str, ...]:
        """Defect types of its regions, sorted."""
        if self.marks:
            return tuple(sorted({mark.label for mark in self.marks}))
        return (self.label,) if self.is_defect else ()


@dataclass(frozen=True)
class Dataset:
    """An ordered, immutable set of samples.

    Attributes:
        name: for example `bottle`.
        root: the folder it was read from.
        samples: sorted by id.
        layout: name of the layout that read it, for example `mvtec`.
        notes: what was assumed when it was read, one line each.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    layout: str = "mvtec"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Defect types, sorted; `good` is not among them."""
        return tuple(sorted({s.label for s in self.samples if s.is_defect}))

    @cached_property
    def region_classes(self) -> tuple[str, ...]:
        """Defect types that regions have, sorted: those that detectors learn.

        They differ from `classes` where one image has boxes of several types.
        """
        return tuple(sorted({name for s in self.samples for name in s.region_labels}))

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        """Samples by their id."""
        return {s.id: s for s in self.samples}

    @cached_property
    def content(self) -> dict[str, str]:
        """SHA-256 of each image file, by sample id.

        Reads every image file once (about 0.3 s for 150 MB); nothing is decoded.
        """
        return {s.id: file_sha256(s.image) for s in self.samples}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, labels, image bytes, masks and marks: equal data, equal fingerprint.

        Mask thresholds count too where they are set, since they decide what a defect is.
        """
        whole = hashlib.sha256()
        for sample in self.samples:
            masks = ",".join(file_sha256(m) for m in sample.masks)
            line = f"{sample.id}\t{sample.label}\t{self.content[sample.id]}\t{masks}\n"
            if sample.mask_threshold is not None:
                line += f"{sample.mask_threshold}\n"
            if sample.marks:
                line += f"{sample.marks!r}\n"
            whole.update(line.encode())
        return whole.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        DataError: the file cannot be read, or is a pipe, a device or a folder.
    """
    digest = hashlib.sha256()
    file = open_regular(path)
    try:
        while block := os.read(file, 1 << 20):
            digest.update(block)
    except OSError as error:
        raise cannot_read(path, error) from error
    finally:
        os.close(file)
    return digest.hexdigest()


def open_regular(path: Path) -> int:
    """Open a regular file for reading and return its descriptor.

    A pipe would block for ever and a device may never end, so both are refused.

    Raises:
        DataError: the file is missing, not a regular file, or must not be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise cannot_read(path, error) from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise DataError(f"{printable(path)}: cannot be read (not a regular file); replace it")
    return file


def cannot_read(path: Path, error: OSError) -> DataError:
    """Return the error for a file that the system does not let us read."""
    return DataError(f"{printable(path)}: cannot be read ({error.strerror}); check the path")

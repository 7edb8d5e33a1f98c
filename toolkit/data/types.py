"""The types that every room shares. Nothing here opens an image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from toolkit.errors import DataError

GOOD = "good"
"""Label of an image without a defect."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known of it.

    Attributes:
        id: the image's path below the data set's root, with forward slashes; unique.
        image: the image file.
        label: `good`, or the defect type.
        masks: ground-truth mask files (0..n); their union is the defect.
        part: the part that the data set's authors put it in, `train` or `test`.
    """

    id: str
    image: Path
    label: str
    masks: tuple[Path, ...] = ()
    part: str = "test"

    @property
    def is_defect(self) -> bool:
        """Whether the label is a defect type."""
        return self.label != GOOD


@dataclass(frozen=True)
class Dataset:
    """An ordered, immutable set of samples.

    Attributes:
        name: for example `bottle`.
        root: the folder it was read from.
        samples: sorted by id.
        layout: name of the layout that read it, for example `mvtec`.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    layout: str = "mvtec"

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Defect types, sorted; `good` is not among them."""
        return tuple(sorted({s.label for s in self.samples if s.is_defect}))

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
        """SHA-256 over ids, labels, image bytes and mask bytes: equal data, equal fingerprint."""
        whole = hashlib.sha256()
        for sample in self.samples:
            masks = ",".join(file_sha256(m) for m in sample.masks)
            line = f"{sample.id}\t{sample.label}\t{self.content[sample.id]}\t{masks}\n"
            whole.update(line.encode())
        return whole.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        DataError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return digest.hexdigest()

"""What a conversion did, and whether its output is still current.

The output holds `report.json`, which counts every image, region and exclusion, and `.inputs.json`:
a key over all options, and the hash of every image with the size and time of its file. A file whose
size, time and inode are unchanged is not read again (as in git), unless it changed too shortly
before the record was written.
"""

from __future__ import annotations

import hashlib
import json
import stat
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import DataError, ToolkitError
from toolkit.files import read_json, write_text

if TYPE_CHECKING:
    from toolkit.data.splits import Split
    from toolkit.data.types import Dataset
    from toolkit.formats.options import Options

REPORT_NAME = "report.json"
INPUTS_NAME = ".inputs.json"
SCHEMA = 2
_SETTLED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Problem:
    """One input that is wrong.

    Attributes:
        kind: short name, such as `empty mask`.
        message: one line that names the file and the fix.
    """

    kind: str
    message: str


@dataclass
class Report:
    """Counts of one conversion.

    Attributes:
        dataset: name of the data set.
        to: the target format.
        out: the folder that was written.
        classes: class names in the order of their indices.
        images: images written, per part and per label.
        regions: regions written, per class.
        found: connected components in the masks, before merging and dropping.
        merged: components that were joined to another one of the same defect.
        dropped: regions or images left out, per reason.
        problems: inputs that are wrong; those that could not be used were skipped.
        grey_edges: masks with grey edges, which were cut at 127.
        backgrounds: good training images chosen and available.
        up_to_date: whether an earlier output is current and was left as it is.
        seconds: wall time.
    """

    dataset: str
    to: str
    out: Path
    classes: tuple[str, ...]
    fingerprint: str = ""
    split_hash: str | None = None
    fold: int | None = None
    images: dict[str, Counter[str]] = field(default_factory=dict)
    regions: Counter[str] = field(default_factory=Counter)
    found: int = 0
    merged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    grey_edges: int = 0
    backgrounds: tuple[int, int] = (0, 0)
    up_to_date: bool = False
    seconds: float = 0.0

    @property
    def n_images(self) -> int:
        """Number of images written, in all parts."""
        return sum(sum(labels.values()) for labels in self.images.values())

    @property
    def n_regions(self) -> int:
        """Number of regions written, of all classes."""
        return sum(self.regions.values())

    def record(self) -> dict[str, Any]:
        """Return the report as JSON values, without the wall time: equal work, equal bytes."""
        return {
            "schema": SCHEMA,
            "dataset": self.dataset,
            "to": self.to,
            "classes": list(self.classes),
            "fingerprint": self.fingerprint,
            "split": self.split_hash,
            "fold": self.fold,
            "images": {part: dict(labels) for part, labels in self.images.items()},
            "regions": dict(self.regions),
            "found": self.found,
            "merged": self.merged,
            "dropped": dict(self.dropped),
            "problems": [{"kind": p.kind, "message": p.message} for p in self.problems],
            "grey_edges": self.grey_edges,
            "backgrounds": {"chosen": self.backgrounds[0], "available": self.backgrounds[1]},
        }

    @classmethod
    def read(cls, folder: Path) -> Report:
        """Read the report of a finished conversion.

        Raises:
            ToolkitError: there is none, or it is of another schema.
        """
        path = folder / REPORT_NAME
        record = read_json(path)
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise DataError(f"{path}: not a conversion report of schema {SCHEMA}; convert again")
        try:
            return cls._parse(record, folder)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}: damaged conversion report ({error}); convert again"
            ) from error

    @classmethod
    def _parse(cls, record: dict[str, Any], folder: Path) -> Report:
        return cls(
            dataset=record["dataset"],
            to=record["to"],
            out=folder,
            classes=tuple(record["classes"]),
            fingerprint=record["fingerprint"],
            split_hash=record["split"],
            fold=record["fold"],
            images={part: Counter(labels) for part, labels in record["images"].items()},
            regions=Counter(record["regions"]),
            found=record["found"],
            merged=record["merged"],
            dropped=Counter(record["dropped"]),
            grey_edges=record["grey_edges"],
            problems=[Problem(**problem) for problem in record["problems"]],
            backgrounds=(record["backgrounds"]["chosen"], record["backgrounds"]["available"]),
        )


def request_key(
    dataset: Dataset, *, to: str, options: Options, split: Split | None, preview: int
) -> str:
    """Return a hash over everything that decides the output, except for the bytes of the inputs."""
    wanted: list[Any] = [SCHEMA, to, options.record(), preview, str(dataset.root.resolve())]
    wanted += [split.plan_hash, split.fold] if split else [None, None]
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode())
    for part in (split.train, split.val, split.test) if split else ():
        digest.update(json.dumps([sample.id for sample in part]).encode())
    for sample in dataset:
        fields = (sample.id, sample.label, sample.part, *sample.masks, sample.mask_threshold)
        names = "\t".join(map(str, (*fields, *sample.marks)))
        digest.update(names.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def write_inputs(folder: Path, dataset: Dataset, *, key: str, stamps: dict[str, list[int]]) -> None:
    """Write the record that `is_current` and `recall_hashes` read.

    Args:
        folder: the output.
        dataset: the data set that was converted.
        key: from `request_key`.
        stamps: from `stamp`, of all files before any was read.
    """
    record = {
        "key": key,
        "time": time.time(),
        "fingerprint": dataset.fingerprint,
        "content": dataset.content,
        "files": {name: stamps[name] for name, _ in _files(dataset)},
    }
    write_text(folder / INPUTS_NAME, json.dumps(record, separators=(",", ":")))


def recall_hashes(dataset: Dataset, out: Path) -> None:
    """Reuse the recorded hashes of a data set if no file has changed since `out` was written.

    Fills the data set's cached `content` and `fingerprint`.
    """
    record = _read(out)
    if record is not None and _unchanged(dataset, record):
        vars(dataset)["content"] = record["content"]
        if not any(sample.marks for sample in dataset):  # label files are not among those recorded
            vars(dataset)["fingerprint"] = record["fingerprint"]


def is_current(dataset: Dataset, out: Path, *, key: str) -> bool:
    """Whether `out` is what a conversion would write now."""
    record = _read(out)
    if record is None or record["key"] != key:
        return False
    return _unchanged(dataset, record) or dataset.fingerprint == record["fingerprint"]


def _read(out: Path) -> dict[str, Any] | None:
    path = out / INPUTS_NAME
    if not path.is_file():
        return None
    try:
        record = read_json(path)
    except ToolkitError:
        return None
    fields = {"key", "time", "fingerprint", "content", "files"}
    return record if isinstance(record, dict) and fields <= record.keys() else None


def _unchanged(dataset: Dataset, record: dict[str, Any]) -> bool:
    files, limit = record["files"], (record["time"] - _SETTLED_SECONDS) * 1e9
    count = 0
    for name, path in _files(dataset):
        try:
            now = stamp(path)
        except OSError:
            return False
        if files.get(name) != now or now[1] > limit:
            return False
        count += 1
    return count == len(files)


def _files(dataset: Dataset) -> Iterator[tuple[str, Path]]:
    for sample in dataset:
        yield str(sample.image), sample.image
        for mask in sample.masks:
            yield str(mask), mask


def stamp(path: Path) -> list[int]:
    """Return size, time of change in nanoseconds, and inode of a file.

    Raises:
        OSError: there is no such file, or it is a pipe, a device or a folder.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is not a regular file")
    return [status.st_size, status.st_mtime_ns, status.st_ino]

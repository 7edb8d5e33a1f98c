"""Whether an earlier conversion is still current, by the content of its inputs.

The output holds `.inputs.json`: a key over everything that was asked for, and the hash of every
image with the size and time of its file. A file whose size, time and inode are as they were is not
read again (as git does it); one that changed too shortly before the record was written is.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.data.types import Dataset
from toolkit.errors import ToolkitError
from toolkit.files import read_json, write_text

if TYPE_CHECKING:
    from toolkit.data.splits import Split
    from toolkit.formats.options import Options

INPUTS_NAME = ".inputs.json"
_VERSION = 1  # to be raised when the same input would give another output
_SETTLED_SECONDS = 2.0


def request_key(
    dataset: Dataset, *, to: str, options: Options, split: Split | None, preview: int
) -> str:
    """Return a hash over what is asked for, the inputs' bytes apart."""
    wanted: list[Any] = [_VERSION, to, options.record(), preview, str(dataset.root.resolve())]
    wanted += [split.plan_hash, split.fold] if split else [None, None]
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode())
    for part in (split.train, split.val, split.test) if split else ():
        digest.update(json.dumps([sample.id for sample in part]).encode())
    for sample in dataset:
        names = "\t".join([sample.id, sample.label, sample.part, *map(str, sample.masks)])
        digest.update(names.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def write_inputs(folder: Path, dataset: Dataset, *, key: str, stamps: dict[str, list[int]]) -> None:
    """Write what `is_current` and `recall_hashes` need to know later.

    Args:
        folder: the output.
        dataset: what was converted.
        key: from `request_key`.
        stamps: of all files, taken before any was read.
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
    """Spare the data set reading its images again, if none has changed since `out` was written.

    Fills the data set's cached `content` and `fingerprint`.
    """
    record = _read(out)
    if record is not None and _unchanged(dataset, record):
        vars(dataset)["content"] = record["content"]
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
    """Return size, time of change in nanoseconds, and inode of a file."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]

"""Manifests: lists of image addresses in shards, written and read without holding them in memory.

    <manifest>/   part-00000.parquet  part-00001.parquet  …  manifest.json

`manifest.json` is written last: without it the manifest is not complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import DataError, RunError, printable
from toolkit.files import OutputError, atomic_write, read_json, write_json
from toolkit.inference.sinks import check_parquet

Form = Literal["parquet", "jsonl"]
MARKER = "manifest.json"
SCHEMA = 1
SHARD_ROWS = 100_000
COLUMNS = ("address", "path", "image", "file")
"""What the column of addresses may be called."""

_GROUP_ROWS = 1_000  # a part of a Parquet file that is read alone


@dataclass(frozen=True)
class Shard:
    """One file of a manifest.

    Attributes:
        path: the file.
        rows: number of addresses.
        first: number of the first row, counted over all shards.
    """

    path: Path
    rows: int
    first: int


@dataclass(frozen=True)
class Block:
    """Successive rows of one shard, the unit of work.

    Attributes:
        shard: the file.
        start: first row in the shard.
        stop: the row behind the last one.
    """

    shard: Shard
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Return a name that is its own in the manifest."""
        return f"{self.shard.path.stem}-{self.start:09d}"


@dataclass(frozen=True)
class Manifest:
    """A list of addresses.

    Attributes:
        path: folder or file.
        shards: its files, in order.
        sha256: of the list of shards; another list has another one.
    """

    path: Path
    shards: tuple[Shard, ...]
    sha256: str

    @property
    def rows(self) -> int:
        """Number of addresses."""
        return sum(shard.rows for shard in self.shards)

    def blocks(self, rows: int) -> Iterator[Block]:
        """Yield blocks of at most `rows` addresses; no shard is opened."""
        for shard in self.shards:
            for start in range(0, shard.rows, rows):
                yield Block(shard, start, min(start + rows, shard.rows))


def write_manifest(
    addresses: Iterable[str], out: Path, *, form: Form = "parquet", shard_rows: int = SHARD_ROWS
) -> Manifest:
    """Write addresses into a folder of shards, as they come.

    Example:
        >>> write_manifest(addresses_of("images/"), Path("manifest")).rows  # doctest: +SKIP
        20000

    Args:
        addresses: paths, or addresses such as `s3://bucket/image.png`.
        out: the folder; must not hold a manifest.
        form: kind of the shards.
        shard_rows: addresses of a shard.

    Raises:
        DataError: there is no address.
        OutputError: there is a manifest already, or it cannot be written.
    """
    if (out / MARKER).exists():
        raise OutputError(f"{out}: holds a manifest already; choose another --out")
    if form == "parquet":
        check_parquet()
    source = iter(addresses)
    shards: list[dict[str, Any]] = []
    while True:
        path = out / f"part-{len(shards):05d}.{form}"
        rows = _write_shard(source, path, form, shard_rows)
        if not rows:
            break
        shards.append({"name": path.name, "rows": rows})
    if not shards:
        raise DataError("manifest: no images there; name a folder or an address that holds some")
    write_json(out / MARKER, {"schema": SCHEMA, "format": form, "shards": shards})
    return read_manifest(out)


def read_manifest(path: Path) -> Manifest:
    """Open a manifest: a folder of `write_manifest`, or one Parquet or JSON Lines file.

    Raises:
        RunError: there is none, it is damaged, or it was not written to its end.
        DataError: a file has no column of addresses.
    """
    if path.is_file() and path.suffix in (".parquet", ".jsonl"):
        rows = _count(path)
        stamp = f"{path.name} {rows} {path.stat().st_size}"
        digest = hashlib.sha256(stamp.encode()).hexdigest()
        return Manifest(path, (Shard(path, rows, 0),), digest)
    if not path.is_dir():
        raise RunError(f"{path}: no manifest; write one with: toolkit manifest FOLDER --out {path}")
    marker = path / MARKER
    if not marker.is_file():
        started = any(path.glob("part-*"))
        raise RunError(
            f"{path}: not complete (no {MARKER}); write it again with: toolkit manifest"
            if started
            else f"{path}: no manifest; write one with: toolkit manifest FOLDER"
        )
    record = read_json(marker)
    try:
        if record["schema"] != SCHEMA:
            raise RunError(f"{marker}: of schema {record['schema']}; write it again")
        shards, first = [], 0
        for one in record["shards"]:
            shards.append(Shard(path / str(one["name"]), int(one["rows"]), first))
            first += int(one["rows"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{marker}: damaged ({error}); write it again") from error
    return Manifest(path, tuple(shards), hashlib.sha256(marker.read_bytes()).hexdigest())


def read_block(block: Block) -> list[str]:
    """Return the addresses of a block; only its part of the file is read.

    Raises:
        DataError: the shard is missing or damaged.
    """
    path = block.shard.path
    try:
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as file:
                found = [_address(json.loads(x)) for x in islice(file, block.start, block.stop)]
        else:
            found = _read_groups(path, block.start, block.stop)
    except OSError as error:
        raise DataError(
            f"{path}: a file of the manifest cannot be read ({error.strerror or error}); restore "
            "it, or write the manifest again"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path}: damaged ({reason}); write the manifest again") from error
    if len(found) != block.stop - block.start:
        raise DataError(f"{path}: holds fewer rows than {MARKER} says; write the manifest again")
    return found


def _write_shard(source: Iterator[str], path: Path, form: Form, most: int) -> int:
    """Write the next addresses; return how many. No file is left where there are none."""
    first = list(islice(source, 1))
    if not first:
        return 0
    chosen = islice(source, most - 1)
    rows = 0
    with atomic_write(path) as temporary:
        if form == "jsonl":
            with temporary.open("w", encoding="utf-8") as file:
                for group in _groups(first, chosen):
                    file.writelines(json.dumps({"address": one}) + "\n" for one in group)
                    rows += len(group)
            return rows
        import pyarrow
        from pyarrow import parquet

        schema = pyarrow.schema([("address", pyarrow.string())])
        with parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in _groups(first, chosen):
                writer.write_table(pyarrow.table({"address": group}, schema))
                rows += len(group)
    return rows


def _groups(first: list[str], rest: Iterator[str]) -> Iterator[list[str]]:
    group = first + list(islice(rest, _GROUP_ROWS - 1))
    while group:
        yield [printable(one) if "\n" in one else one for one in group]
        group = list(islice(rest, _GROUP_ROWS))


def _read_groups(path: Path, start: int, stop: int) -> list[str]:
    from pyarrow import parquet

    found: list[str] = []
    with parquet.ParquetFile(path) as file:
        column = _column(file.schema_arrow.names, path)
        end = 0
        for number in range(file.num_row_groups):
            begin, end = end, end + file.metadata.row_group(number).num_rows
            if end <= start or begin >= stop:
                continue
            values = file.read_row_group(number, columns=[column]).column(0)
            part = values.slice(max(start - begin, 0), min(stop, end) - max(start, begin))
            found += [str(value) for value in part.to_pylist()]
    return found


def _count(path: Path) -> int:
    if path.suffix == ".jsonl":
        with path.open("rb") as lines:
            return sum(1 for _ in lines)
    check_parquet()
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            _column(file.schema_arrow.names, path)
            return int(file.metadata.num_rows)
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path}: not a readable Parquet file ({reason})") from error


def _column(names: list[str], path: Path) -> str:
    for name in COLUMNS:
        if name in names:
            return name
    raise DataError(f"{path}: no column {', '.join(COLUMNS)}; name one so")


def _address(row: Any) -> str:
    if isinstance(row, str):
        return row
    return str(next(row[name] for name in COLUMNS if name in row))

"""Answer one block of a manifest: read, decode, predict, and write its rows as one Parquet file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.data.images import decode_rgb
from toolkit.errors import DataError, printable
from toolkit.files import atomic_write
from toolkit.inference.manifest import Block, read_block
from toolkit.inference.model import Model
from toolkit.inference.result import Result
from toolkit.inference.sinks import Pictures
from toolkit.inference.sources import SourceImage
from toolkit.inference.throughput import in_order
from toolkit.storage import is_address, read_address

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Threads that read and decode while the network predicts; a storage answers late.
_READERS, _STORAGE_READERS = 2, 8


@dataclass(frozen=True)
class _Read:
    row: int
    address: str
    sha256: str | None = None
    pixels: NDArray[np.uint8] | None = None
    error: str | None = None


def answer_block(
    model: Model, block: Block, out: Path, *, model_hash: str, pictures: Pictures = "none"
) -> tuple[int, int]:
    """Predict the images of a block, and write `<block>.parquet` whole or not at all.

    An image that cannot be read is a row with an error. Columns: `row` (number in the manifest),
    `address`, `sha256` of the file, `score`, `threshold`, `decision`, `boxes`, `mask` (COCO's
    compressed RLE with `size` (H, W) and `counts`), `class`, `model`, `error`.

    Args:
        model: what predicts.
        block: the rows.
        out: folder of the results.
        model_hash: stored in each row.
        pictures: which results are plotted, into `pictures/<row>.jpg`.

    Returns:
        The numbers of rows and of errors.

    Raises:
        DataError: the shard is missing or damaged.
        RunError: a score is not finite.
        OutputError: the rows cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    first = block.shard.first + block.start
    addresses = read_block(block)
    readers = _STORAGE_READERS if any(map(is_address, addresses)) else _READERS
    found = in_order(_read, enumerate(addresses, first), workers=readers)
    rows: list[dict[str, Any]] = []
    for batch in _batches(found, model.batch_size):
        decoded = [(SourceImage(r.address), r.pixels) for r in batch if r.pixels is not None]
        results = iter(model.results(decoded) if decoded else ())
        for one in batch:
            result = None if one.pixels is None else next(results)
            rows.append(_row(one, result, model_hash))
            if result is not None and (
                pictures == "all" or (pictures == "defects" and result.is_defect)
            ):
                result.save(out / "pictures" / f"{one.row:012d}.jpg")
    with atomic_write(out / f"{block.name}.parquet") as temporary:
        parquet.write_table(
            pyarrow.Table.from_pylist(rows, answer_schema()), temporary, compression="zstd"
        )
    return len(rows), sum(row["error"] is not None for row in rows)


def answer_schema() -> Any:
    """Return the Arrow schema of a row of the results."""
    import pyarrow as pa

    box = pa.struct(
        {"box_xyxy": pa.list_(pa.float32()), "score": pa.float32(), "label": pa.string()}
    )
    mask = pa.struct({"size": pa.list_(pa.int32()), "counts": pa.string()})
    return pa.schema(
        {
            "row": pa.int64(), "address": pa.string(), "sha256": pa.string(),
            "score": pa.float64(), "threshold": pa.float64(), "decision": pa.string(),
            "boxes": pa.list_(box), "mask": mask, "class": pa.string(), "model": pa.string(),
            "error": pa.string(),
        }
    )  # fmt: skip


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask as COCO's compressed RLE.

    Example:
        >>> import numpy as np
        >>> encode_mask(np.ones((2, 3), bool))
        {'size': [2, 3], 'counts': '06'}

    Args:
        mask: bool array (H, W).
    """
    import numpy as np
    from pycocotools import mask as coco

    found = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in found["size"]], "counts": found["counts"].decode("ascii")}


def _read(item: tuple[int, str]) -> _Read:
    row, address = item
    try:
        data = read_address(address)
        pixels = decode_rgb(Path(address), data)
    except DataError as error:
        return _Read(row, address, error=printable(error))
    return _Read(row, address, hashlib.sha256(data).hexdigest(), pixels)


def _batches(items: Iterator[_Read], size: int) -> Iterator[list[_Read]]:
    batch: list[_Read] = []
    for one in items:
        batch.append(one)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def _row(read: _Read, result: Result | None, model_hash: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "row": read.row, "address": read.address, "sha256": read.sha256, "model": model_hash,
        "error": read.error,
    }  # fmt: skip
    if result is None:
        return row
    outcome = result.outcome
    row |= {"score": result.score, "threshold": result.threshold}
    row["decision"] = None if outcome is None else outcome.value
    if result.boxes is not None:
        boxes = result.boxes
        row["boxes"] = [
            {"box_xyxy": [float(v) for v in box], "score": float(score), "label": label}
            for box, score, label in zip(boxes.xyxy, boxes.scores, boxes.labels, strict=True)
        ]
    if result.mask is not None:
        row["mask"] = encode_mask(result.mask)
    if result.class_probabilities:
        row["class"] = max(result.class_probabilities, key=result.class_probabilities.__getitem__)
    return row

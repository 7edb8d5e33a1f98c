"""Write results to a folder as they are made: plots, JSON Lines, Parquet and YOLO labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from toolkit.errors import ConfigError, MissingExtraError
from toolkit.files import OutputError, atomic_write, read_json, write_json, write_text
from toolkit.inference.result import Result

if TYPE_CHECKING:
    from toolkit.prediction import Boxes

PREDICTIONS = "predictions.jsonl"
PARQUET = "predictions.parquet"
Pictures = Literal["all", "defects", "none"]

_MODEL = "model.json"
_PARQUET_ROWS = 10_000


class ResultWriter:
    """A folder of results.

    `predictions.jsonl` gets one line per result, written at once: what was answered is never lost.
    `<name>.jpg` is the plot. If the method detects and its classes are known, `labels/<name>.txt`
    has one row `class cx cy w h confidence` per box that is drawn, in fractions of the image's
    sides, and `labels/classes.txt` the class names in their order. Subfolders of the source are
    kept.

    Example:
        >>> with ResultWriter(Path("out")) as writer:  # doctest: +SKIP
        ...     for result in model.predict("new-images/", stream=True):
        ...         writer.add_line(writer.add_files(result, writer.free_name(result.name)))

    Args:
        out: the folder; made if missing.
        classes: names of the classes that boxes have.
        pictures: which results are plotted.
        resume: keep the results that are there, and add to them.
        model: what predicts, as JSON values; results of another are not added to.

    Raises:
        OutputError: something cannot be written; what was written before stays.
        ConfigError: the folder holds results of another model.
    """

    def __init__(
        self,
        out: Path,
        *,
        classes: Sequence[str] = (),
        pictures: Pictures = "all",
        resume: bool = False,
        model: Mapping[str, Any] | None = None,
    ) -> None:
        self.out = out
        self._classes, self._pictures = classes, pictures
        self._taken: set[str] = set()
        self._done: set[int] = set()
        lines = out / PREDICTIONS
        try:
            out.mkdir(parents=True, exist_ok=True)
            if resume and lines.is_file():
                self._check_model(model)
                self._done = _images_of(lines)
            self._file = lines.open("ab" if resume else "wb", buffering=0)
        except OSError as error:
            raise _cannot_write(out, error) from error
        if model is not None:
            write_json(out / _MODEL, dict(model))

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if (self.out / "labels").is_dir():
            names = "".join(f"{name}\n" for name in self._classes)
            write_text(self.out / "labels/classes.txt", names)

    @property
    def kept(self) -> int:
        """Number of results that were there before."""
        return len(self._done)

    def is_done(self, image: str) -> bool:
        """Whether an image of this path or name was answered before."""
        return hash(image) in self._done

    def free_name(self, name: str) -> str:
        """Return the path without its ending, numbered where two images of the source share it."""
        stem = PurePosixPath(name).with_suffix("").as_posix()
        free, number = stem, 2
        if self._pictures == "none" and not self._classes:
            return free
        while free in self._taken:
            free, number = f"{stem}-{number}", number + 1
        self._taken.add(free)
        return free

    def add_files(self, result: Result, name: str) -> dict[str, Any]:
        """Write the plot and the labels of a result; any thread may call.

        Returns:
            The record for `add_line`.
        """
        if self._pictures == "all" or (self._pictures == "defects" and result.is_defect):
            result.save(self.out / f"{name}.jpg")
        if self._classes and result.boxes is not None:
            rows = _label_rows(result, result.boxes, self._classes)
            write_text(self.out / f"labels/{name}.txt", "".join(rows))
        return result.to_dict()

    def add_line(self, record: Mapping[str, Any]) -> None:
        """Write one line of `predictions.jsonl`; a disk that is full leaves no half line."""
        data = (json.dumps(record) + "\n").encode()
        end = self._file.tell()
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.out / PREDICTIONS, end)
            raise _cannot_write(self.out, error) from error

    def _check_model(self, model: Mapping[str, Any] | None) -> None:
        path = self.out / _MODEL
        if model is not None and path.is_file() and read_json(path) != dict(model):
            raise ConfigError(f"{path}: results of another model; choose another --out")


def write_parquet(out: Path) -> Path:
    """Write `predictions.jsonl` of a folder once more as `predictions.parquet`.

    Boxes are a list of structures, probabilities a structure; rows are read in blocks.

    Raises:
        MissingExtraError: PyArrow is not installed.
        OutputError: the file cannot be written.
    """
    check_parquet()
    import pyarrow
    from pyarrow import parquet

    path = out / PARQUET
    with atomic_write(path) as temporary:
        writer = None
        for rows in _blocks(out / PREDICTIONS):
            table = pyarrow.Table.from_pylist(rows, writer and writer.schema)
            writer = writer or parquet.ParquetWriter(temporary, _schema(table.schema))
            writer.write_table(table.cast(writer.schema))
        if writer is None:
            parquet.write_table(pyarrow.table({"image": pyarrow.array([], "string")}), temporary)
        else:
            writer.close()
    return path


def check_parquet() -> None:
    """Refuse Parquet where PyArrow is not installed.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="parquet", purpose="use Parquet") from error


def _schema(found: Any) -> Any:
    """Return a schema of rows in which columns that were empty so far have their type."""
    import pyarrow

    box = pyarrow.struct(
        {
            "box_xyxy": pyarrow.list_(pyarrow.float64()),
            "label": pyarrow.string(),
            "score": pyarrow.float64(),
        }
    )
    known = {"threshold": pyarrow.float64(), "is_defect": pyarrow.bool_(),
             "boxes": pyarrow.list_(box)}  # fmt: skip
    return pyarrow.schema([(field.name, known.get(field.name, field.type)) for field in found])


def _blocks(path: Path) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            rows.append(json.loads(line))
            if len(rows) == _PARQUET_ROWS:
                yield rows
                rows = []
    if rows:
        yield rows


def _images_of(path: Path) -> set[int]:
    """Return hashes of the images that a file answers; a half line at its end is cut off."""
    found, end = set(), 0
    with path.open("r+b") as file:
        for line in file:
            try:
                if not line.endswith(b"\n"):
                    break
                found.add(hash(json.loads(line)["image"]))
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
        file.truncate(end)
    return found


def _cannot_write(out: Path, error: OSError) -> OutputError:
    return OutputError(f"{out}: cannot be written ({error.strerror or error}); free some space, "
                       "then repeat with --resume")  # fmt: skip


def _label_rows(result: Result, boxes: Boxes, classes: Sequence[str]) -> Iterator[str]:
    index = {name: i for i, name in enumerate(classes)}
    height, width = result.image.shape[:2]
    for box, score, label in zip(boxes.xyxy, boxes.scores, boxes.labels, strict=True):
        if score < result.box_threshold or label not in index:
            continue
        x0, y0, x1, y1 = (float(v) for v in box)
        place = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width,
                 (y1 - y0) / height)  # fmt: skip
        yield " ".join([str(index[label]), *(f"{v:.6f}" for v in place), f"{score:.6f}"]) + "\n"

"""Write results to a folder as they are made: plots, JSON Lines and YOLO labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from toolkit.files import OutputError, write_text
from toolkit.inference.result import Result

if TYPE_CHECKING:
    from toolkit.prediction import Boxes

PREDICTIONS = "predictions.jsonl"


def write_results(
    results: Iterable[Result], out: Path, *, classes: Sequence[str] = ()
) -> Iterator[Result]:
    """Write each result as it is made, and pass it on.

    A result becomes `<name>.jpg` (the plot) and one line of `predictions.jsonl`. If the method
    detects and its classes are known, `labels/<name>.txt` has one row
    `class cx cy w h confidence` per box that is drawn, in fractions of the image's sides, and
    `labels/classes.txt` the class names in their order. Subfolders of the source are kept.

    Args:
        results: consumed one by one.
        out: the folder; made if missing.
        classes: names of the classes that boxes have.

    Raises:
        OutputError: something cannot be written; what was written before stays.
    """
    taken: set[str] = set()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / PREDICTIONS).open("w", encoding="utf-8") as lines:
            for result in results:
                name = _free_name(result.name, taken)
                result.save(out / f"{name}.jpg")
                if classes and result.boxes is not None:
                    rows = _label_rows(result, result.boxes, classes)
                    write_text(out / f"labels/{name}.txt", "".join(rows))
                lines.write(json.dumps(result.to_dict()) + "\n")
                lines.flush()
                yield result
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror or error})") from error
    if (out / "labels").is_dir():
        write_text(out / "labels/classes.txt", "".join(f"{name}\n" for name in classes))


def _free_name(name: str, taken: set[str]) -> str:
    """Return the path without its ending, numbered where two images of the source share it."""
    stem = PurePosixPath(name).with_suffix("").as_posix()
    free, number = stem, 2
    while free in taken:
        free, number = f"{stem}-{number}", number + 1
    taken.add(free)
    return free


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

"""Format `masks`: labels back to masks, so that a round trip can prove a conversion.

    images/{train,val,test}/<stem>.png  masks/{train,val,test}/<stem>.png  mask_values.yaml

A pixel holds the class index + 1, or 0. This is the `folder` layout; `mask_values.yaml` is what
`--mask-values` takes.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.types import GOOD
from toolkit.errors import DataError, printable
from toolkit.files import atomic_folder, write_json
from toolkit.formats.readers import Converted, LabelledImage, open_converted
from toolkit.formats.report import REPORT_NAME, Report
from toolkit.verification.checksums import write_checksums

if TYPE_CHECKING:
    from toolkit.progress import Progress

_OVERLAP = "pixel of two classes: it gets the later one"


def convert_to_masks(
    source: Path | str,
    *,
    out: Path | str,
    overwrite: bool = False,
    progress: Callable[[int | None], AbstractContextManager[Progress]] | None = None,
) -> Report:
    """Rasterise the labels of a converted data set.

    Boxes give filled rectangles, polygons are filled by the even-odd rule at pixel centres, run
    lengths are exact.

    Args:
        source: a folder in the formats `yolo`, `yolo-seg` or `coco`.
        out: the folder to make.
        overwrite: whether an existing output may be replaced.
        progress: opens the progress bar.

    Raises:
        DataError: the source is not such a folder, or is damaged.
        OutputError: the output exists, or cannot be written.
    """
    started = time.perf_counter()
    data = open_converted(source)
    if data.kind not in ("yolo", "coco"):
        raise DataError(
            f"{printable(source)}: masks come from yolo, yolo-seg or coco, not from {data.kind}"
        )
    out = Path(out)
    name = Path(source).resolve().name
    report = Report(dataset=name, to="masks", out=out, classes=data.classes)
    with atomic_folder(out, overwrite=overwrite) as folder:
        with progress(None) if progress else nullcontext() as bar:
            for image in data:
                _write_mask(folder, image, data, report)
                if bar is not None:
                    bar.advance()
        values = {i + 1: class_name for i, class_name in enumerate(data.classes)}
        lines = [
            f"{value}: {json.dumps(text, ensure_ascii=False)}\n" for value, text in values.items()
        ]
        (folder / "mask_values.yaml").write_text("".join(lines), encoding="utf-8")
        write_json(folder / REPORT_NAME, report.record())
        write_checksums(folder)
    report.seconds = time.perf_counter() - started
    return report


def _write_mask(folder: Path, image: LabelledImage, data: Converted, report: Report) -> None:
    import cv2

    width, height = image.size_wh
    kind = np.uint8 if len(data.classes) < 256 else np.uint16
    values = np.zeros((height, width), dtype=kind)
    for shape in image.shapes:
        mask = shape.mask(image.size_wh)
        report.dropped[_OVERLAP] += int((values[mask] > 0).sum())
        values[mask] = shape.class_index + 1
        report.regions[data.classes[shape.class_index]] += 1
    link = folder / "images" / image.part / image.path.name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(image.path.resolve())
    label = data.classes[image.shapes[0].class_index] if image.shapes else GOOD
    report.images.setdefault(image.part, Counter())[label] += 1
    if image.shapes:
        path = folder / "masks" / image.part / f"{image.stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", values)[1].tobytes())
    report.dropped += Counter()  # removes counts of zero

"""Formats `yolo` and `yolo-seg`: one text file of normalised labels per image, and a `data.yaml`.

    data.yaml  images/{train,val,test}/<stem>.png  labels/{train,val,test}/<stem>.txt

A row of `yolo` is `class cx cy w h`, as fractions of the image's sides. Boxes are half-open, so the
width of a 50-pixel-wide region is exactly 50 / image width. A row of `yolo-seg` is
`class x1 y1 x2 y2 …`, one per region: its holes are joined to the outer ring by seams. A background
image has an empty file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.formats.pipeline import PARTS, Job, place_image, write_bytes
from toolkit.formats.polygons import INSET, outline

if TYPE_CHECKING:
    from toolkit.data.regions import Box
    from toolkit.formats.extract import Item, Labelled
    from toolkit.formats.pipeline import Entry

DUPLICATE = "region with the same label row as another"


class YoloWriter:
    """Writes boxes in YOLO's folders."""

    needs_masks = True
    needs_outlines = False
    takes_good = True

    def __init__(self, folder: Path, job: Job) -> None:
        self.job = job
        self._folder = folder
        self._labels = {part: folder / "labels" / part for part in PARTS}
        for part, labels in self._labels.items():
            (folder / "images" / part).mkdir(parents=True, exist_ok=True)
            labels.mkdir(parents=True, exist_ok=True)

    def encode(self, item: Item) -> None:
        """Write the image and its label file."""
        entry = item.entry
        place_image(item, self._folder / "images" / entry.part, self.job)
        path = self._labels[entry.part] / f"{entry.stem}.txt"
        write_bytes(path, "".join(self._rows(item)).encode())

    def _rows(self, item: Item) -> list[str]:
        """Return the label rows; equal rows, of which trainers keep one, are counted."""
        width, height = item.size_wh
        rows: dict[str, Labelled] = {}
        for one in item.labelled:
            row = f"{one.class_index} {self.shape_text(one, width=width, height=height)}\n"
            if row in rows:
                item.dropped[DUPLICATE] += 1
            rows.setdefault(row, one)
        item.labelled = list(rows.values())
        return list(rows)

    def shape_text(self, one: Labelled, *, width: int, height: int) -> str:
        """Return the part of a row after the class."""
        return box_text(one.region.box_xyxy, width=width, height=height)

    def collect(self, entry: Entry, payload: None) -> None:
        """Do nothing: every image has its own files."""

    def finish(self) -> None:
        """Write `data.yaml`."""
        (self._folder / "data.yaml").write_text(data_yaml(self.job), encoding="utf-8")


class YoloSegWriter(YoloWriter):
    """Writes polygons in YOLO's folders."""

    needs_outlines = True

    def shape_text(self, one: Labelled, *, width: int, height: int) -> str:
        """Return the region's outline."""
        points = outline(one.region, inset=INSET) / (width, height)
        return " ".join(f"{value:.7f}" for value in points.ravel().tolist())


def box_text(box_xyxy: Box, *, width: int, height: int) -> str:
    """Return `cx cy w h` as fractions; eight decimals give the exact pixel up to 65,536 a side."""
    x0, y0, x1, y1 = box_xyxy
    return (
        f"{(x0 + x1) / (2 * width):.8f} {(y0 + y1) / (2 * height):.8f} "
        f"{(x1 - x0) / width:.8f} {(y1 - y0) / height:.8f}"
    )


def data_yaml(job: Job) -> str:
    """Return the data file that trainers read.

    Strings are written as JSON strings, which every YAML reader takes as text, also a class called
    `no` or `1e3`.
    """
    lines = [f"path: {_quoted(str(job.out.resolve()))}", "train: images/train"]
    if job.counts.get("val"):
        lines.append("val: images/val")
    else:
        lines.append("val: images/test  # there is no validation part; a split gives one")
    lines += ["test: images/test", "names:"]
    lines += [f"  {index}: {_quoted(name)}" for index, name in enumerate(job.classes)]
    lines.append("prompts:  # a phrase per class, for detectors with open vocabulary")
    lines += [f"  {index}: {_quoted(text)}" for index, text in enumerate(job.prompts)]
    lines += [
        f"dataset: {_quoted(job.dataset.name)}",
        f"fingerprint: {_quoted(job.fingerprint)}",
        f"split: {_quoted(job.split_hash) if job.split_hash else 'null'}",
        f"fold: {'null' if job.fold is None else job.fold}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)

"""Target `yolo`: one text file of normalised boxes per image, and a `data.yaml`.

    data.yaml  images/{train,val,test}/<stem>.png  labels/{train,val,test}/<stem>.txt

A row is `class cx cy w h`, as fractions of the image's sides. Boxes are half-open inside, so the
width of a 50-pixel-wide region is exactly 50 / image width. A background image has an empty file.
"""

from __future__ import annotations

import json
from pathlib import Path

from toolkit.formats.extract import Item
from toolkit.formats.job import Job, place_image

NAME = "yolo"
_DUPLICATE = "same box as another region"


class YoloWriter:
    """Writes one data set in YOLO's folders."""

    def __init__(self, folder: Path, job: Job) -> None:
        self._folder, self._job = folder, job
        self._labels = {}
        for part in job.parts:
            (folder / "images" / part).mkdir(parents=True)
            self._labels[part] = folder / "labels" / part
            self._labels[part].mkdir(parents=True)

    def encode(self, item: Item) -> None:
        """Write the image and its label file; safe to call from several threads."""
        place_image(item, self._folder / "images" / item.entry.part, self._job)
        path = self._labels[item.entry.part] / f"{item.entry.stem}.txt"
        path.write_text("".join(self.rows(item)), encoding="utf-8")

    def rows(self, item: Item) -> list[str]:
        """Return the label rows of an image; equal rows, which trainers drop, are counted."""
        width, height = item.size_wh
        rows: dict[str, None] = {}
        for one in item.labelled:
            row = f"{one.class_index} {box_text(one.region.box_xyxy, width=width, height=height)}\n"
            if row in rows:
                item.dropped[_DUPLICATE] += 1
            rows[row] = None
        if len(rows) < len(item.labelled):
            seen: set[tuple[int, tuple[int, int, int, int]]] = set()
            kept = []
            for one in item.labelled:
                key = (one.class_index, one.region.box_xyxy)
                if key not in seen:
                    kept.append(one)
                seen.add(key)
            item.labelled[:] = kept
        return list(rows)

    def collect(self, item: Item, payload: None) -> None:
        """Nothing is shared between images."""

    def finish(self) -> None:
        """Write `data.yaml`."""
        path = self._folder / "data.yaml"
        path.write_text(data_yaml(self._job), encoding="utf-8")


def box_text(box_xyxy: tuple[int, int, int, int], *, width: int, height: int) -> str:
    """Return `cx cy w h` as fractions; eight decimals give the exact pixel up to 65,536 a side."""
    x0, y0, x1, y1 = box_xyxy
    return (
        f"{(x0 + x1) / (2 * width):.8f} {(y0 + y1) / (2 * height):.8f} "
        f"{(x1 - x0) / width:.8f} {(y1 - y0) / height:.8f}"
    )


def data_yaml(job: Job) -> str:
    """Return the data file that trainers read.

    Strings are written as JSON strings, which every YAML reader takes as text: a class called
    `no` or `1e3` stays what it is.
    """
    lines = [
        f"path: {_quoted(str(job.out.resolve()))}",
        "train: images/train",
    ]
    if job.counts["val"]:
        lines.append("val: images/val")
    else:
        lines.append("val: images/test  # no validation part: convert with a split to get one")
    lines.append("test: images/test")
    lines.append("names:")
    lines += [f"  {index}: {_quoted(name)}" for index, name in enumerate(job.classes)]
    lines.append("prompts:  # phrases for open-vocabulary detectors, one per class")
    lines += [f"  {index}: {_quoted(text)}" for index, text in enumerate(job.prompts)]
    lines.append("toolkit:")
    lines.append(f"  dataset: {_quoted(job.dataset.name)}")
    lines.append(f"  fingerprint: {_quoted(job.fingerprint)}")
    lines.append(f"  split: {_quoted(job.split_hash) if job.split_hash else 'null'}")
    lines.append(f"  fold: {'null' if job.fold is None else job.fold}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)

"""Format `coco`: images and one instances file per part; and COCO's run lengths.

    images/{train,val,test}/<stem>.png  annotations/instances_{train,val,test}.json

Masks are exact run lengths, or polygons (`--segmentation polygon`, for tools that read no run
lengths). `area` counts pixels and `bbox` is x, y, width, height of the half-open box.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.raster import Rle
from toolkit.formats.pipeline import PARTS, Job, place_image
from toolkit.formats.polygons import outline

if TYPE_CHECKING:
    from toolkit.data.regions import Region
    from toolkit.formats.extract import Item, Labelled
    from toolkit.formats.pipeline import Entry


class CocoWriter:
    """Writes images and instances files."""

    needs_masks = True
    needs_outlines = False
    takes_good = True

    def __init__(self, folder: Path, job: Job) -> None:
        self.job = job
        self._folder = folder
        self._images: dict[str, list[str]] = {part: [] for part in PARTS}
        self._annotations: dict[str, list[str]] = {part: [] for part in PARTS}
        for part in PARTS:
            (folder / "images" / part).mkdir(parents=True, exist_ok=True)

    def encode(self, item: Item) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Write the image; return its record and its annotations, without ids."""
        part = item.entry.part
        path = place_image(item, self._folder / "images" / part, self.job)
        width, height = item.size_wh
        image = {
            "file_name": path.name,
            "width": width,
            "height": height,
            "source": item.entry.sample.id,
        }
        return image, [self._annotation(one, item.size_wh) for one in item.labelled]

    def _annotation(self, one: Labelled, size_wh: tuple[int, int]) -> dict[str, Any]:
        x0, y0, x1, y1 = one.region.box_xyxy
        segmentation: Any = []
        if one.is_box:
            pass
        elif self.job.options.segmentation == "rle":
            segmentation = encode_region(one.region, size_wh)
        else:
            segmentation = [outline(one.region).ravel().tolist()]
        return {
            "category_id": one.class_index + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": one.region.area,
            "iscrowd": 0,
            "segmentation": segmentation,
        }

    def collect(self, entry: Entry, payload: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
        """Give the image and its annotations their ids, and keep them as text, which is small."""
        images, annotations = self._images[entry.part], self._annotations[entry.part]
        image, found = payload
        image_id = len(images) + 1
        images.append(_line({"id": image_id, **image}))
        for annotation in found:
            number = len(annotations) + 1
            annotations.append(_line({"id": number, "image_id": image_id, **annotation}))

    def finish(self) -> None:
        """Write the instances files."""
        folder = self._folder / "annotations"
        folder.mkdir()
        job = self.job
        categories = [
            _line({"id": i + 1, "name": name, "supercategory": "defect", "prompt": prompt})
            for i, (name, prompt) in enumerate(zip(job.classes, job.prompts, strict=True))
        ]
        info = _line(
            {
                "description": job.dataset.name,
                "fingerprint": job.fingerprint,
                "split": job.split_hash,
                "fold": job.fold,
            }
        )
        for part in PARTS:
            with (folder / f"instances_{part}.json").open("w", encoding="utf-8") as file:
                file.write(f'{{"info": {info},\n"licenses": [],\n')
                for key, lines in (
                    ("categories", categories),
                    ("images", self._images[part]),
                    ("annotations", self._annotations[part]),
                ):
                    file.write(f'"{key}": [\n' + ",\n".join(lines) + "\n]")
                    file.write("}\n" if key == "annotations" else ",\n")


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def encode_region(region: Region, size_wh: tuple[int, int]) -> Rle:
    """Return the region as run lengths of the whole image; only its own columns are read."""
    from pycocotools import mask as coco_mask

    width, height = size_wh
    x0, y0, x1, y1 = region.box_xyxy
    columns = np.zeros((x1 - x0, height), dtype=np.int8)
    columns[:, y0:y1] = region.crop.T
    flat = columns.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    if flat[0]:
        changes = np.concatenate([[0], changes])
    edges = np.concatenate([[0], changes + x0 * height, [width * height]])
    if flat[-1] and x1 < width:  # the last run ends with the region's last column
        edges = np.insert(edges, -1, x1 * height)
    runs = {"size": [height, width], "counts": np.diff(edges).tolist()}
    coded = coco_mask.frPyObjects(runs, height, width)
    return {"size": [height, width], "counts": coded["counts"].decode("ascii")}

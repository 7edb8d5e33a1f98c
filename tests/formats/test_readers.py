"""Damaged converted data sets give one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from toolkit.data.raster import decode_rle
from toolkit.data.regions import Region
from toolkit.data.types import Dataset
from toolkit.errors import DataError
from toolkit.formats.coco import encode_region
from toolkit.formats.convert import convert
from toolkit.formats.masks import convert_to_masks
from toolkit.formats.readers import open_converted
from toolkit.formats.report import Report

COCO = "annotations/instances_test.json"


def set_image(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["images"][0].update({key: value})


def set_label(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["annotations"][0].update({key: value})


@pytest.mark.parametrize(
    "change",
    [
        set_image("file_name", None),
        set_image("file_name", 7),
        set_image("width", 10**22),
        set_image("width", "wide"),
        set_image("height", -5),
        set_image("height", None),
        set_label("category_id", 99),
        set_label("bbox", [1, 2]),
        set_label("bbox", None),
        set_label("segmentation", {"size": [40, 60], "counts": "zzzz"}),
        set_label("segmentation", {"size": [4000, 6000], "counts": "0"}),
        set_label("segmentation", [["x"]]),
        set_label("segmentation", [[1.0, 2.0, float("nan"), 2.0, 1.0, 9.0]]),
        set_label("segmentation", [[1.0, 2.0, 1e300, 2.0, 1.0, 9.0]]),
        set_label("bbox", [1.0, 2.0, 1e300, 4.0]),
        lambda record: record.pop("images"),
        lambda record: record.update(annotations=[None]),
        lambda record: record.update(categories=None),
    ],
)
def test_mutated_coco(
    dataset: Dataset, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    convert(dataset, to="coco", out=tmp_path / "out")
    path = tmp_path / "out" / COCO
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="convert again") as caught:
        convert_to_masks(tmp_path / "out", out=tmp_path / "masks")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("to", "name"), [("coco", COCO), ("yolo", "data.yaml"), ("sam", "test.jsonl")]
)
@pytest.mark.parametrize("text", ["[" * 5000, "", "null", "[]", "\x00", "{"])
def test_files_that_are_something_else(
    dataset: Dataset, tmp_path: Path, to: str, name: str, text: str
) -> None:
    if to == "sam" and not text:
        return  # no pairs
    convert(dataset, to=to, out=tmp_path / "out")
    (tmp_path / "out" / name).write_text(text)
    with pytest.raises(DataError, match="convert again"):
        list(open_converted(tmp_path / "out"))


@pytest.mark.parametrize("text", ['{"schema": 2}', '{"schema": 2, "dataset": 1, "images": []}'])
def test_a_damaged_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(DataError, match="report"):
        Report.read(tmp_path)


@given(mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
@settings(max_examples=150, deadline=None)
def test_run_lengths_are_those_of_pycocotools(mask: NDArray[np.bool_]) -> None:
    from pycocotools import mask as coco_mask

    height, width = mask.shape
    rle = encode_region(Region((0, 0, width, height), int(mask.sum()), mask), (width, height))
    assert (decode_rle(rle) == mask).all()
    assert (coco_mask.decode(rle) == mask).all()

"""There and back: what was converted gives the masks and boxes that it was made from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from formats.conftest import masks
from toolkit.data.images import read_mask, read_mask_values
from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset
from toolkit.formats.convert import convert
from toolkit.formats.masks import convert_to_masks
from toolkit.formats.yolo import box_text


@pytest.mark.parametrize("to", ["yolo-seg", "coco"])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_round_trip_is_exact(dataset: Dataset, tmp_path: Path, to: str, connectivity: int) -> None:
    convert(dataset, to=to, out=tmp_path / "there", connectivity=connectivity)
    convert_to_masks(tmp_path / "there", out=tmp_path / "back")
    for name, mask in masks().items():
        back = tmp_path / f"back/masks/test/test__{name.replace('/', '__')}.png"
        value = 1 + ["dent", "scratch"].index(name.split("/")[0])
        assert (read_mask_values(back) == (mask > 0) * value).all()
    # and what comes back is a data set again
    again = load_dataset(tmp_path / "back")
    values = yaml.safe_load((tmp_path / "back/mask_values.yaml").read_text())
    report = convert(again, to=to, out=tmp_path / "third", mask_values=values)
    assert report.regions == Counter(scratch=5, dent=4)
    assert not report.problems


def test_boxes_come_back_as_rectangles(dataset: Dataset, tmp_path: Path) -> None:
    convert(dataset, to="yolo", out=tmp_path / "there")
    convert_to_masks(tmp_path / "there", out=tmp_path / "back")
    back = read_mask(tmp_path / "back/masks/test/test__scratch__000.png")
    assert (back == (masks()["scratch/000"] > 0)).all()


@pytest.mark.parametrize("size", [4096, 4095, 899, 7])
def test_normalised_boxes_give_the_exact_pixel(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(500):
        x0, x1 = sorted(int(v) for v in rng.choice(size + 1, 2, replace=False))
        cx, _, width, _ = map(
            np.float32, box_text((x0, 0, x1, size), width=size, height=size).split()
        )
        # as a trainer reads it: 32-bit floats
        assert round(float((cx - width / 2) * np.float32(size))) == x0
        assert round(float((cx + width / 2) * np.float32(size))) == x1


def test_coco_polygons_fill_to_the_area(dataset: Dataset, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    convert(dataset, to="coco", out=tmp_path / "out", segmentation="polygon")
    data = COCO(tmp_path / "out/annotations/instances_test.json")
    assert len(data.anns) == 9
    for one in data.anns.values():
        assert data.annToMask(one).sum() == one["area"]

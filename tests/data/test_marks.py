"""Boxes and outlines of annotation files as regions."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data.images import read_regions, read_truth
from toolkit.data.marks import marked_regions, pixel_box
from toolkit.data.types import Mark, Sample
from toolkit.errors import DataError

WHERE = Path("a.png")
fractions = st.floats(0, 1)


@given(fractions, fractions, fractions, fractions, st.integers(1, 300), st.integers(1, 300))
def test_boxes_hold_a_pixel_and_stay_inside(
    x0: float, y0: float, x1: float, y1: float, width: int, height: int
) -> None:
    box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    left, top, right, bottom = pixel_box(box, (width, height))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 10), st.integers(1, 10))
def test_whole_pixels_are_exact(x: int, y: int, width: int, height: int) -> None:
    box = (x / 20, y / 30, (x + width) / 20, (y + height) / 30)
    assert pixel_box(box, (20, 30)) == (x, y, x + width, y + height)


def test_regions_and_truth(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    cv2.imwrite(str(image), np.zeros((10, 20, 3), np.uint8))
    square = Mark("dent", (0.0, 0.0, 0.1, 0.2))
    triangle = Mark("cut", (0.5, 0.0, 1.0, 1.0), polygons=((0.5, 0.0, 1.0, 0.0, 1.0, 1.0),))
    sample = Sample("a.png", image, "combined", marks=(square, triangle))
    assert not sample.has_mask
    assert sample.has_boxes
    (_, first), (label, second) = read_regions(sample)
    assert (first.box_xyxy, first.area, label) == ((0, 0, 2, 2), 4, "cut")
    assert second.area == pytest.approx(50, abs=6)
    assert read_truth(sample).sum() == first.area + second.area


@pytest.mark.parametrize(
    "mark",
    [
        Mark("dent", (0, 0, 1, 1), polygons=((0.1, 0.1, 0.1001, 0.1, 0.1, 0.1001),)),
        Mark("dent", (0, 0, 1, 1), rle=(7, 7, "11")),
        Mark("dent", (0, 0, 1, 1), rle=(10, 10, "\x00")),
    ],
)
def test_outlines_without_a_pixel(mark: Mark) -> None:
    with pytest.raises(DataError, match=r"a\.png: .*correct its label"):
        marked_regions([mark], (10, 10), path=WHERE)

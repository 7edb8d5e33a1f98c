"""Outlines filled again give the region, by two ways of filling."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import ndimage

from toolkit.data.raster import fill
from toolkit.data.regions import Region, regions_of
from toolkit.formats.extract import join
from toolkit.formats.polygons import INSET, outline

Mask = NDArray[np.bool_]


def check(region: Region, shape: tuple[int, int]) -> None:
    size = (shape[1], shape[0])
    whole = region.mask(size)
    assert (fill(outline(region), size) == whole).all()
    # as it stands in a file: inset, as fractions of seven decimals
    written = np.round(outline(region, inset=INSET) / size, 7) * size
    assert (fill(written, size) == whole).all()
    # as Ultralytics fills: cut to integers, border painted
    painted = np.zeros(shape, np.uint8)
    cv2.fillPoly(painted, [written.astype(np.float32).astype(np.int32)], 1)
    assert (painted == whole).all()


@given(
    mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)),
    connectivity=st.sampled_from([4, 8]),
)
@settings(max_examples=300, deadline=None)
def test_any_region_comes_back(mask: Mask, connectivity: int) -> None:
    for region in regions_of(mask, connectivity=connectivity):
        check(region, mask.shape)


@given(seed=st.integers(0, 2**32 - 1), smooth=st.floats(0.5, 3), level=st.floats(-0.5, 1.5))
@settings(max_examples=60, deadline=None)
def test_blobs_with_holes_come_back(seed: int, smooth: float, level: float) -> None:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(50, 60)), smooth)
    mask = field > level * field.std()
    for region in regions_of(mask):
        check(region, mask.shape)


@pytest.mark.parametrize(
    "rows",
    [
        ["#"],  # a single pixel
        ["###"],  # a line
        ["#.", ".#"],  # pixels that touch at a point, falling
        [".#", "#."],  # and rising
        ["###", "#.#", "###"],  # a hole
        ["####", "#.##", "##.#", "####"],  # holes that touch at a point
        ["#####", "#.#.#", "#####", "#.#.#", "#####"],  # four holes, one above another
        ["#####", "#...#", "#.###", "#.#.#", "#####"],  # a hole below a hole
    ],
)
def test_small_shapes(rows: list[str]) -> None:
    mask = np.array([[c == "#" for c in row] for row in rows])
    (region,) = regions_of(mask)
    check(region, mask.shape)


def test_outline_spans_the_half_open_box() -> None:
    region = Region(box_xyxy=(5, 10, 55, 20), area=500, crop=np.ones((10, 50), dtype=bool))
    points = outline(region)
    assert points.min(axis=0).tolist() == [5, 10]
    assert points.max(axis=0).tolist() == [55, 20]


def test_joined_parts_stay_one_ring() -> None:
    mask = np.zeros((30, 40), dtype=bool)
    mask[2:8, 2:10] = mask[20:25, 30:38] = mask[3, 30] = True
    region = join(regions_of(mask))
    assert (fill(outline(region), (40, 30)) == mask).all()

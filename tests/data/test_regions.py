"""Regions against scipy's labels, on drawn and on random masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import ndimage

from toolkit.data.regions import Region, regions_of, union_box

Mask = NDArray[np.bool_]
EIGHT = np.ones((3, 3), dtype=int)


def drawn(*rows: str) -> Mask:
    return np.array([[c == "#" for c in row] for row in rows], dtype=bool)


@pytest.mark.parametrize(
    ("mask", "connectivity", "boxes", "areas"),
    [
        # nothing
        (drawn("...", "..."), 8, [], []),
        # a speck: contour area is 0, pixel count is 1
        (drawn("...", ".#."), 8, [(1, 1, 2, 2)], [1]),
        # a line of one pixel's width
        (drawn("....", "###.", "...."), 8, [(0, 1, 3, 2)], [3]),
        # diagonal neighbours touch under 8 and not under 4
        (drawn("#.", ".#"), 8, [(0, 0, 2, 2)], [2]),
        (drawn("#.", ".#"), 4, [(0, 0, 1, 1), (1, 1, 2, 2)], [1, 1]),
        # everything
        (drawn("##", "##"), 8, [(0, 0, 2, 2)], [4]),
        # an island in a hole is a region of its own; the hole is nobody's
        (
            drawn("#####", "#...#", "#.#.#", "#...#", "#####"),
            8,
            [(0, 0, 5, 5), (2, 2, 3, 3)],
            [16, 1],
        ),
        # boxes overlap though the regions do not touch
        (drawn("#..#", "#...", "####"), 8, [(0, 0, 4, 3), (3, 0, 4, 1)], [6, 1]),
        # in the order of the first pixel, not of the box's corner
        (drawn("..##", "#...", "##.."), 8, [(2, 0, 4, 1), (0, 1, 2, 3)], [2, 3]),
    ],
)
def test_boxes_and_areas(
    mask: Mask, connectivity: int, boxes: list[tuple[int, ...]], areas: list[int]
) -> None:
    regions = regions_of(mask, connectivity=connectivity)
    assert [r.box_xyxy for r in regions] == boxes
    assert [r.area for r in regions] == areas


masks = arrays(
    bool,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24),
    elements=st.booleans(),
    fill=st.booleans(),
)


def same_as_scipy(mask: Mask, connectivity: int) -> None:
    labels, count = ndimage.label(mask, EIGHT if connectivity == 8 else None)
    slices = ndimage.find_objects(labels)
    expected = sorted(
        (s[1].start, s[0].start, s[1].stop, s[0].stop, (labels[s] == i + 1).tobytes())
        for i, s in enumerate(slices)
    )
    regions = regions_of(mask, connectivity=connectivity)
    assert len(regions) == count
    assert sorted((*r.box_xyxy, r.crop.tobytes()) for r in regions) == expected
    assert all(r.area == r.crop.sum() for r in regions)


@given(mask=masks, connectivity=st.sampled_from([4, 8]))
@settings(max_examples=1000, deadline=None)
def test_regions_are_those_of_scipy(mask: Mask, connectivity: int) -> None:
    same_as_scipy(mask, connectivity)


@given(
    seed=st.integers(0, 2**32 - 1), connectivity=st.sampled_from([4, 8]), smooth=st.floats(0.5, 4)
)
@settings(max_examples=150, deadline=None)
def test_blobs_are_those_of_scipy(seed: int, connectivity: int, smooth: float) -> None:
    noise = np.random.default_rng(seed).normal(size=(80, 90))
    field = ndimage.gaussian_filter(noise, smooth)
    same_as_scipy(field > 1.5 * field.std(), connectivity)


@given(mask=masks)
@settings(max_examples=200, deadline=None)
def test_regions_put_together_are_the_mask(mask: Mask) -> None:
    whole = np.zeros_like(mask)
    for region in regions_of(mask):
        part = region.mask((mask.shape[1], mask.shape[0]))
        assert not (whole & part).any()
        whole |= part
    assert (whole == mask).all()


def test_mask_may_be_a_strided_view() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[4:8, 6:10] = True
    assert [r.box_xyxy for r in regions_of(mask[::2, ::2])] == [(3, 2, 5, 4)]


def test_union_box() -> None:
    assert union_box([(1, 2, 3, 4), (0, 3, 2, 9)]) == (0, 2, 3, 9)
    with pytest.raises(ValueError, match="no boxes"):
        union_box([])


def test_region_mask_has_the_image_size() -> None:
    region = Region(box_xyxy=(1, 0, 3, 1), area=2, crop=np.ones((1, 2), dtype=bool))
    assert region.mask((4, 2)).tolist() == [[False, True, True, False], [False] * 4]

"""Joining and resizing regions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from toolkit.data.regions import regions_of
from toolkit.formats.extract import merge, resize, resized_wh


@pytest.mark.parametrize(
    ("row", "distance", "expected"),
    [
        ("##.##", 1, 2),  # centres are 2 apart
        ("##.##", 2, 1),
        ("#..#..#", 3, 1),  # in a chain
        ("#..#...#", 3, 2),  # only the first two
    ],
)
def test_merged_in_a_row(row: str, distance: float, expected: int) -> None:
    regions = regions_of(np.array([[c == "#" for c in row]]))
    found = merge(regions, distance=distance)
    assert len(found) == expected
    assert sum(r.area for r in found) == row.count("#")


@pytest.mark.parametrize(("distance", "expected"), [(2.8, 2), (2.83, 1)])
def test_distance_is_euclidean(distance: float, expected: int) -> None:
    mask = np.zeros((3, 3), dtype=bool)
    mask[0, 0] = mask[2, 2] = True
    assert len(merge(regions_of(mask), distance=distance)) == expected


@given(
    mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12)),
    distance=st.floats(1, 6),
)
@example(mask=np.array([[True, False, False, False, True], [False] * 5]), distance=3.9995)
@settings(max_examples=150, deadline=None)
def test_merging_is_what_pairwise_distances_say(mask: NDArray[np.bool_], distance: float) -> None:
    regions = regions_of(mask, connectivity=4)
    pixels = [np.argwhere(r.mask(mask.shape[::-1])) for r in regions]
    links = np.array(
        [
            [np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)).min() <= distance for b in pixels]
            for a in pixels
        ]
    ).reshape(len(regions), len(regions))
    for _ in regions:
        links = links | ((links.astype(int) @ links.astype(int)) > 0)
    assert len(merge(regions, distance=distance)) == len({tuple(row) for row in links.tolist()})


def test_sizes_keep_the_aspect() -> None:
    assert resized_wh((4000, 1000), 1000) == (1000, 250)
    assert resized_wh((10, 4000), 100) == (1, 100)


def test_resized_by_half() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 20:40] = True
    (region,) = regions_of(mask)
    small = resize(region, from_wh=(60, 40), to_wh=(30, 20))
    assert small.box_xyxy == (10, 5, 20, 10)
    assert small.area == 50


@given(
    mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=20)),
    width=st.integers(1, 25),
    height=st.integers(1, 25),
)
@settings(max_examples=200, deadline=None)
def test_no_region_vanishes(mask: NDArray[np.bool_], width: int, height: int) -> None:
    old = mask.shape[::-1]
    for region in regions_of(mask):
        small = resize(region, from_wh=old, to_wh=(width, height))
        x0, y0, x1, y1 = small.box_xyxy
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert small.area == small.crop.sum() > 0
        # tight: every side of the box has a pixel
        assert small.crop[0].any() and small.crop[-1].any()  # noqa: PT018
        assert small.crop[:, 0].any() and small.crop[:, -1].any()  # noqa: PT018

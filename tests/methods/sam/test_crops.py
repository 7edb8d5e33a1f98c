"""Crops lie in the image, hold their box, and are few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.methods.sam.crops import Crop, crop_around, random_crop, shared_crop

sizes = st.tuples(st.integers(1, 1200), st.integers(1, 1200))


@st.composite
def places(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """A box of at least a pixel in an image."""
    width, height = draw(sizes)
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    return (x0, y0, x1, y1), (width, height)


def _holds(crop: Crop, box: tuple[float, ...], size_wh: tuple[int, int]) -> None:
    x0, y0, x1, y1 = crop
    assert 0 <= x0 <= box[0]
    assert 0 <= y0 <= box[1]
    assert box[2] <= x1 <= size_wh[0]
    assert box[3] <= y1 <= size_wh[1]
    assert x1 - x0 == y1 - y0


@given(places(), st.floats(0.1, 5))
def test_a_crop_is_a_square_in_the_image_and_holds_the_box(place, crop_scale: float) -> None:
    box, size_wh = place
    crop = crop_around(box, size_wh, crop_scale)
    if crop is not None:
        _holds(crop, box, size_wh)
        assert crop[2] - crop[0] >= crop_scale * max(box[2] - box[0], box[3] - box[1])


@given(places(), st.floats(0.1, 5), st.integers(0, 2**32))
def test_random_crops_too(place, crop_scale: float, seed: int) -> None:
    box, size_wh = place
    crop = random_crop(box, size_wh, crop_scale, np.random.default_rng(seed))
    if crop is not None:
        _holds(crop, box, size_wh)


@pytest.mark.parametrize(
    ("box", "crop_scale", "side"),
    [
        ((400, 400, 405, 405), 2.0, 64),  # never closer than this
        ((400, 400, 431, 431), 2.0, 64),  # just fits
        ((400, 400, 500, 440), 2.0, 230),  # the longer side counts; sides go by steps
        ((400, 400, 500, 440), 0.0, None),  # crops are off
        ((100, 100, 700, 700), 2.0, None),  # it would hardly be smaller than the image
        ((0, 0, 900, 900), 1.0, None),
    ],
)
def test_the_side_follows_the_box(box, crop_scale: float, side: int | None) -> None:
    crop = crop_around(box, (900, 900), crop_scale)
    assert (None if crop is None else crop[2] - crop[0]) == side


def test_nearly_equal_boxes_share_a_crop() -> None:
    crops = {
        crop_around((400 + i, 400, 500 + j, 490), (900, 900), 2.0)
        for i in range(-4, 5)
        for j in range(-4, 5)
    }
    assert len(crops) < 81 / 10


def test_a_box_over_the_rim_has_a_crop_inside() -> None:
    assert crop_around((-30.0, 850.0, 20.0, 930.0), (900, 900), 2.0) == (0, 708, 192, 900)


def test_boxes_of_one_place_share_a_crop_and_crops_are_limited() -> None:
    crops: list[Crop] = []
    near = [(200, 100, 205, 104), (201, 101, 206, 105), (196, 98, 206, 104)]
    far = [(20, 20, 25, 25), (300, 200, 310, 210), (50, 250, 60, 260)]
    found = [shared_crop(box, (400, 300), 2.0, crops, 2) for box in [*near, *far]]
    assert len(set(found[:3])) == 1
    assert found[3] == crops[1]
    assert found[4:] == [None, None]
    assert shared_crop((0, 0, 400, 300), (400, 300), 2.0, crops, 9) is None

"""Windows lie in the image, hold their box, and are few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.methods.sam.windows import Window, cut, random_window, window_around

sizes = st.tuples(st.integers(1, 1200), st.integers(1, 1200))


@st.composite
def places(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """A box of at least a pixel in an image."""
    width, height = draw(sizes)
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    return (x0, y0, x1, y1), (width, height)


def _holds(window: Window, box: tuple[float, ...], size_wh: tuple[int, int]) -> None:
    x0, y0, x1, y1 = window
    assert 0 <= x0 <= box[0]
    assert 0 <= y0 <= box[1]
    assert box[2] <= x1 <= size_wh[0]
    assert box[3] <= y1 <= size_wh[1]
    assert x1 - x0 == y1 - y0


@given(places(), st.floats(0.1, 5))
def test_a_window_is_a_square_in_the_image_and_holds_the_box(place, zoom: float) -> None:
    box, size_wh = place
    window = window_around(box, size_wh, zoom)
    if window is not None:
        _holds(window, box, size_wh)
        assert window[2] - window[0] >= zoom * max(box[2] - box[0], box[3] - box[1])


@given(places(), st.floats(0.1, 5), st.integers(0, 2**32))
def test_random_windows_too(place, zoom: float, seed: int) -> None:
    box, size_wh = place
    window = random_window(box, size_wh, zoom, np.random.default_rng(seed))
    if window is not None:
        _holds(window, box, size_wh)


@pytest.mark.parametrize(
    ("box", "zoom", "side"),
    [
        ((400, 400, 405, 405), 2.0, 64),  # never closer than this
        ((400, 400, 431, 431), 2.0, 64),  # just fits
        ((400, 400, 500, 440), 2.0, 230),  # the longer side counts; sides go by steps
        ((400, 400, 500, 440), 0.0, None),  # windows are off
        ((100, 100, 700, 700), 2.0, None),  # it would hardly be smaller than the image
        ((0, 0, 900, 900), 1.0, None),
    ],
)
def test_the_side_follows_the_box(box, zoom: float, side: int | None) -> None:
    window = window_around(box, (900, 900), zoom)
    assert (None if window is None else window[2] - window[0]) == side


def test_nearly_equal_boxes_share_a_window() -> None:
    windows = {
        window_around((400 + i, 400, 500 + j, 490), (900, 900), 2.0)
        for i in range(-4, 5)
        for j in range(-4, 5)
    }
    assert len(windows) < 81 / 10


def test_a_box_over_the_rim_has_a_window_inside() -> None:
    assert window_around((-30.0, 850.0, 20.0, 930.0), (900, 900), 2.0) == (0, 708, 192, 900)


def test_a_window_is_cut_out() -> None:
    array = np.arange(20).reshape(4, 5)
    np.testing.assert_array_equal(cut(array, (1, 2, 3, 4)), [[11, 12], [16, 17]])
    assert cut(array, None) is array

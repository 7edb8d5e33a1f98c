"""A frame and back: masks, prompts and logits keep their place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.methods.sam.frames import (
    WHOLE,
    Frame,
    frames_of,
    mask_in,
    prompt_in,
    seen_in,
    to_image,
)
from toolkit.methods.sam.prompts import Prompt, box_prompt, click_prompt, with_click
from toolkit.methods.sam.targets import low_mask
from toolkit.methods.sam.views import COUNT, undo_view, view_of_array
from toolkit.methods.sam.windows import window_around

views = st.integers(0, COUNT - 1)


@given(views, st.integers(1, 9), st.integers(1, 9))
def test_a_view_is_undone(view: int, height: int, width: int) -> None:
    array = np.arange(height * width).reshape(height, width)
    np.testing.assert_array_equal(undo_view(view_of_array(array, view), view), array)


@given(views, st.integers(0, 29), st.integers(0, 39), st.booleans())
def test_a_click_stays_on_its_pixel(view: int, x: int, y: int, windowed: bool) -> None:
    frame = Frame(view, (0, 5, 30, 35)) if windowed and 5 <= y < 35 else Frame(view)
    mask = np.zeros((40, 30), bool)
    mask[y, x] = True
    prompt = prompt_in(click_prompt(x, y), frame, (30, 40))
    ((row, column),) = np.argwhere(mask_in(mask, frame))
    assert prompt.coords[0].tolist() == [column, row]


@pytest.mark.parametrize("view", range(COUNT))
def test_the_corners_of_a_box_stay_first_and_last_and_clicks_stay_clicks(view: int) -> None:
    mask = np.zeros((50, 60), bool)
    mask[10:20, 5:35] = True
    frame = Frame(view, (0, 0, 40, 40))
    prompt = prompt_in(
        with_click(box_prompt((5, 10, 35, 20)), 7, 12, positive=False), frame, (60, 50)
    )
    ys, xs = np.nonzero(mask_in(mask, frame))
    assert prompt.coords[:2].tolist() == [[xs.min(), ys.min()], [xs.max(), ys.max()]]
    assert prompt.labels.tolist() == [2, 3, 0]


def test_padding_points_need_no_place() -> None:
    prompt = prompt_in(click_prompt(50, 60), Frame(0, (40, 40, 80, 80)), (100, 100))
    assert prompt.coords[0].tolist() == [10, 20]
    assert prompt.labels.tolist() == [1, -1]


@settings(max_examples=25, deadline=None)
@given(
    views, st.integers(0, 300), st.integers(0, 200), st.integers(20, 90), st.integers(20, 90),
    st.booleans(),
)  # fmt: skip
def test_a_mask_pasted_back_is_the_mask(
    view: int, x: int, y: int, width: int, height: int, windowed: bool
) -> None:
    size_wh = (400, 300)
    mask = np.zeros((300, 400), bool)
    mask[y : y + height, x : x + width] = True
    window = window_around((x, y, min(x + width, 400), min(y + height, 300)), size_wh, 2.0)
    frame = Frame(view, window if windowed else None)
    low = torch.from_numpy(low_mask(mask_in(mask, frame)))[None] * 20 - 10
    total, count = to_image(low, [frame], size_wh)
    pasted = total.numpy() > 0
    # Half a pixel of the decoder's grid on each side, at most.
    shown = max(frame.size_wh(size_wh))
    rim = 2 * (min(width, 400 - x) + min(height, 300 - y)) * max(shown / 256, 1)
    assert np.count_nonzero(pasted != mask) <= rim
    x0, y0, x1, y1 = frame.window or (0, 0, *size_wh)
    assert count.sum() == (x1 - x0) * (y1 - y0)
    assert count[y0:y1, x0:x1].all()


def test_what_several_frames_say_is_added_where_they_see() -> None:
    low = torch.ones(2, 256, 256)
    total, count = to_image(low, [WHOLE, Frame(5, (10, 20, 60, 70))], (100, 80))
    assert total[30, 30] == pytest.approx(2)
    assert total[5, 5] == pytest.approx(1)
    assert count.unique().tolist() == [1, 2]


def test_frames_of_an_image_differ_and_the_first_is_plain() -> None:
    frames = frames_of(COUNT)
    assert frames[0] == WHOLE
    assert {frame.view for frame in frames} == set(range(COUNT))
    assert frames_of(2, (0, 0, 9, 9)) == [Frame(0, (0, 0, 9, 9)), Frame(3, (0, 0, 9, 9))]


def test_a_frame_shows_its_part_of_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    np.testing.assert_array_equal(seen_in(image, Frame(0, (2, 1, 7, 6))), image[1:6, 2:7])


def test_prompts_without_a_window_are_as_they_were() -> None:
    prompt = Prompt(np.array([[3, 4], [0, 0]], np.float32), np.array([1, -1]))
    assert prompt_in(prompt, WHOLE, (9, 9)).coords.tolist() == prompt.coords.tolist()

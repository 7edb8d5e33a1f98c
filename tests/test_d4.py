"""The eight flips and turns: arrays, tensors, points and boxes all move together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolkit.d4 import ALL, D4, IDENTITY, allowed_transforms

transforms = st.sampled_from(ALL)
arrays = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7)) | st.tuples(*[st.integers(1, 5)] * 3)
)


def test_all_eight_are_different() -> None:
    square = np.arange(9).reshape(3, 3)
    assert len({one.apply(square).tobytes() for one in ALL}) == len(ALL) == 8
    assert ALL[0] == IDENTITY
    assert np.array_equal(IDENTITY.apply(square), square)


@given(transforms, arrays)
def test_undo_inverts_apply(one: D4, array: np.ndarray) -> None:
    there = one.apply(array)
    assert there.flags.c_contiguous
    height, width = array.shape[:2]
    assert there.shape[:2] == ((width, height) if one.swaps_sides else (height, width))
    assert np.array_equal(one.undo(there), array)
    assert np.array_equal(one.apply(one.undo(array)), array)


@given(transforms, arrays)
def test_tensors_move_as_arrays(one: D4, array: np.ndarray) -> None:
    channels_first = torch.from_numpy(array if array.ndim == 2 else array.transpose(2, 0, 1))
    moved = one.apply_tensor(channels_first[None])[0].numpy()
    expected = one.apply(array)
    assert np.array_equal(moved, expected if array.ndim == 2 else expected.transpose(2, 0, 1))


@given(transforms, st.integers(1, 9), st.integers(1, 9), st.data())
def test_points_stay_on_their_pixel(one: D4, width: int, height: int, data: st.DataObject) -> None:
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    image = np.zeros((height, width), np.uint8)
    image[y, x] = 1
    ((new_x, new_y),) = one.apply_points(np.array([[x, y]], np.float32), (width, height))
    assert one.apply(image)[int(new_y), int(new_x)] == 1


@given(transforms, st.integers(1, 9), st.integers(1, 9), st.data())
def test_boxes_come_back_around_their_pixels(
    one: D4, width: int, height: int, data: st.DataObject
) -> None:
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    image = np.zeros((height, width), bool)
    image[y0:y1, x0:x1] = True
    rows, columns = np.nonzero(one.apply(image))
    moved = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    back = one.undo_boxes(np.array([moved], np.float32), (width, height))
    assert back.tolist() == [[x0, y0, x1, y1]]
    assert back.dtype == np.float32


def test_no_points_and_no_boxes() -> None:
    for one in ALL:
        assert one.apply_points(np.zeros((0, 2), np.float32), (4, 3)).shape == (0, 2)
        assert one.undo_boxes(np.zeros((0, 4), np.float32), (4, 3)).shape == (0, 4)


@pytest.mark.parametrize("turns", [-1, 4, 1.5])
def test_other_turns_are_refused(turns: int) -> None:
    with pytest.raises(ValueError, match="must be 0, 1, 2 or 3"):
        D4(turns=turns)


FLIPS = [(), ("horizontal",), ("vertical",), ("horizontal", "vertical")]


@pytest.mark.parametrize(
    ("flips", "rotation", "count"),
    [
        ((), "none", 1), ((), "half", 2), ((), "any", 4),
        (("horizontal",), "none", 2), (("vertical",), "none", 2),
        (("horizontal", "vertical"), "none", 4), (("horizontal",), "half", 4),
        (("horizontal",), "any", 8), (("vertical",), "any", 8),
    ],
)  # fmt: skip
def test_number_of_allowed_transforms(flips: tuple[str, ...], rotation: str, count: int) -> None:
    found = allowed_transforms(flips=flips, rotation=rotation)
    assert len(found) == len(set(found)) == count
    assert found[0] == IDENTITY


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("rotation", ["none", "half", "any"])
def test_allowed_transforms_are_closed(flips: tuple[str, ...], rotation: str) -> None:
    """What may be done once may be done twice: they are a group."""
    image = np.arange(9).reshape(3, 3)
    found = allowed_transforms(flips=flips, rotation=rotation)
    images = {one.apply(image).tobytes() for one in found}
    assert {two.apply(one.apply(image)).tobytes() for one in found for two in found} == images


def test_flips_are_what_they_are_called() -> None:
    image = np.arange(6).reshape(2, 3)
    (_, horizontal) = allowed_transforms(flips=["horizontal"], rotation="none")
    (_, vertical) = allowed_transforms(flips=["vertical"], rotation="none")
    assert np.array_equal(horizontal.apply(image), image[:, ::-1])
    assert np.array_equal(vertical.apply(image), image[::-1])

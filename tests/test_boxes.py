"""Geometry of boxes, against torchvision and by properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou as torchvision_box_iou

from toolkit.boxes import box_iou, jitter_box

coordinate = st.integers(0, 40)
side = st.integers(1, 20)
boxes = st.lists(
    st.builds(lambda x, y, w, h: (x, y, x + w, y + h), coordinate, coordinate, side, side),
    min_size=1,
    max_size=5,
)


@given(boxes, boxes)
def test_iou_equals_torchvision(one: list[tuple[int, ...]], other: list[tuple[int, ...]]) -> None:
    found = box_iou(np.array(one), np.array(other))
    reference = torchvision_box_iou(torch.tensor(one).double(), torch.tensor(other).double())
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, reference.numpy(), atol=1e-12)


@given(boxes)
def test_iou_of_a_box_with_itself_is_one(one: list[tuple[int, ...]]) -> None:
    found = box_iou(np.array(one), np.array(one))
    np.testing.assert_array_equal(np.diag(found), 1)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 4, 4), (4, 0, 8, 4), 0.0),  # half-open: they touch and share nothing
        ((2, 2, 2, 5), (2, 2, 2, 5), 0.0),  # empty
        ((0, 0, 4, 4), (1, 1, 1, 3), 0.0),
        ((0, 0, 0.001, 0.001), (0, 0, 0.001, 0.001), 1.0),
        # unsigned and small types must not overflow
        (np.array([0, 0, 250, 250], np.uint8), np.array([5, 0, 255, 250], np.uint8), 245 / 255),
        (np.array([0, 0, 1e4, 1e4], np.float16), np.array([0, 0, 1e4, 1e4], np.float16), 1.0),
    ],
)
def test_special_boxes(one: object, other: object, expected: float) -> None:
    assert box_iou(np.array([one]), np.array([other])).item() == pytest.approx(expected)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_no_boxes(n: int, m: int) -> None:
    assert box_iou(np.zeros((n, 4)), np.zeros((m, 4))).shape == (n, m)


@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.floats(0, 2), st.data()
)
def test_a_jittered_box_stays_near_and_in_the_image(
    width: int, height: int, seed: int, share: float, data: st.DataObject
) -> None:
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    box = (x0, y0, x1, y1)
    found = jitter_box(box, (width, height), np.random.default_rng(seed), share=share)
    assert found == jitter_box(box, (width, height), np.random.default_rng(seed), share=share)
    left, top, right, bottom = found
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert min(right - left, bottom - top) >= 1 - 1e-9
    assert max(abs(a - b) for a, b in zip(found, box, strict=True)) <= 21
    if share == 0:
        assert found == box


def test_the_spread_is_a_share_of_the_side() -> None:
    rng = np.random.default_rng(0)
    found = np.array(
        [jitter_box((400, 400, 500, 450), (1000, 1000), rng, share=0.1) for _ in range(2000)]
    )
    shifts = found - (400, 400, 500, 450)
    np.testing.assert_allclose(shifts.mean(axis=0), 0, atol=0.7)
    np.testing.assert_allclose(shifts.std(axis=0), [9.6, 5, 9.6, 5], rtol=0.08)  # cut at 20

"""Views of a picture and the joining of their boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.data.dataset_cards import Symmetry
from toolkit.methods.yolo.views import PLAIN, View, allowed_views, fuse
from toolkit.prediction import Boxes

ALL = tuple(View(turns, mirrored) for turns in range(4) for mirrored in (False, True))


def _boxes(*rows: tuple[float, ...], label: str = "crack") -> Boxes:
    array = np.array(rows, np.float32).reshape(-1, 5)
    return Boxes(array[:, :4], array[:, 4], (label,) * len(array))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ALL), st.integers(3, 9), st.integers(3, 9), st.data())
def test_a_box_found_in_a_view_comes_back_to_its_pixels(
    view: View, width: int, height: int, data: st.DataObject
) -> None:
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    image = np.zeros((height, width, 3), np.uint8)
    image[y0:y1, x0:x1] = 255
    rows, columns = np.nonzero(view.of(image)[..., 0])  # where the view shows it
    seen = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    np.testing.assert_array_equal(view.back(seen, (width, height)), [[x0, y0, x1, y1]])


def test_no_boxes_come_back_as_no_boxes() -> None:
    assert View(1, mirrored=True).back(np.zeros((0, 4), np.float32), (5, 7)).shape == (0, 4)


@pytest.mark.parametrize(
    ("flips", "rotation", "expected"),
    [
        ((), "none", {View()}),
        (("horizontal",), "none", {View(), View(0, True)}),
        (("vertical",), "none", {View(), View(2, True)}),
        # both mirrors one after the other are half a turn
        (("horizontal", "vertical"), "none", {View(), View(0, True), View(2, True), View(2)}),
        ((), "half", {View(), View(2)}),
        ((), "any", {View(0), View(1), View(2), View(3)}),
        (("horizontal", "vertical"), "any", set(ALL)),
    ],
)
def test_views_are_those_that_the_product_allows(
    flips: tuple[str, ...], rotation: str, expected: set[View]
) -> None:
    views = allowed_views(Symmetry(flips=flips, rotation=rotation))
    assert views[0] == PLAIN
    assert set(views) == expected
    assert len(views) == len(expected)


def test_one_answer_stays_as_it_is() -> None:
    answer = _boxes((0, 0, 4, 4, 0.5), (0, 0, 4, 4, 0.4))
    assert fuse([answer]) is answer


def test_what_all_views_see_keeps_its_score_and_takes_the_mean_place() -> None:
    fused = fuse([_boxes((0, 0, 10, 10, 0.9)), _boxes((1, 0, 11, 10, 0.3))])
    # weighted by score: 3 to 1
    np.testing.assert_allclose(fused.xyxy, [[0.25, 0, 10.25, 10]], atol=1e-6)
    np.testing.assert_allclose(fused.scores, [0.6], atol=1e-6)


def test_what_one_view_alone_sees_counts_little() -> None:
    fused = fuse([_boxes((0, 0, 10, 10, 0.8)), _boxes((50, 50, 60, 60, 0.9)), _boxes()])
    np.testing.assert_allclose(fused.scores, [0.3, 0.8 / 3], atol=1e-6)
    np.testing.assert_array_equal(fused.xyxy[0], [50, 50, 60, 60])


def test_two_boxes_of_one_view_do_not_add_up() -> None:
    fused = fuse([_boxes((0, 0, 10, 10, 0.9), (0, 0, 10, 9, 0.8)), _boxes((0, 0, 10, 10, 0.9))])
    np.testing.assert_allclose(fused.scores, [0.9], atol=1e-6)


def test_classes_stay_apart() -> None:
    fused = fuse([_boxes((0, 0, 9, 9, 0.4)), _boxes((0, 0, 9, 9, 0.6), label="dirt")])
    assert fused.labels == ("dirt", "crack")
    np.testing.assert_allclose(fused.scores, [0.3, 0.2], atol=1e-6)


def test_nothing_in_any_view() -> None:
    assert len(fuse([_boxes(), _boxes()])) == 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(*(st.integers(0, 20) for _ in range(4)), st.floats(0.001, 1)), max_size=6
        ),
        min_size=2,
        max_size=4,
    )
)
def test_fused_boxes_stay_within_what_was_seen(seen: list[list[tuple[float, ...]]]) -> None:
    rows = [[(x, y, x + w + 1, y + h + 1, s) for x, y, w, h, s in one] for one in seen]
    fused = fuse([_boxes(*one) for one in rows])
    every = [row for one in rows for row in one]
    assert (len(fused) > 0) == (len(every) > 0)
    if every:
        assert np.all(np.diff(fused.scores) <= 0)
        assert fused.scores.max() <= max(row[4] for row in every) + 1e-6
        assert fused.xyxy[:, :2].min() >= 0
        assert np.all(fused.xyxy[:, :2] < fused.xyxy[:, 2:])

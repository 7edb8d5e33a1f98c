"""Geometry of tiles, by properties, and detection in them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data.regions import regions_of
from toolkit.runtime.boxes import Found
from toolkit.runtime.tiles import (
    detect_in_tiles,
    keep_largest_scores,
    tile_boxes,
    tile_starts,
    touches_cut,
)

NOTHING = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), ())

coordinate = st.integers(0, 40)
side = st.integers(1, 20)
boxes = st.lists(
    st.builds(lambda x, y, w, h: (x, y, x + w, y + h), coordinate, coordinate, side, side),
    min_size=1,
    max_size=5,
)
lengths = st.integers(1, 90)
overlaps = st.sampled_from([0.0, 0.2, 0.25, 0.5])


@given(lengths, lengths, st.integers(4, 40), overlaps)
def test_tiles_cover_the_image_and_stay_in_it(
    width: int, height: int, side: int, overlap: float
) -> None:
    covered = np.zeros((height, width), np.bool_)
    for x0, y0, x1, y1 in tile_boxes((width, height), side, overlap):
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert (x1 - x0, y1 - y0) == (min(side, width), min(side, height))
        covered[y0:y1, x0:x1] = True
    assert covered.all()


@given(lengths, st.integers(4, 40), overlaps, st.data())
def test_what_is_not_longer_than_the_overlap_lies_in_one_tile(
    length: int, side: int, overlap: float, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, max(1, min(length, int(side * overlap)))))
    start = data.draw(st.integers(0, length - size))
    starts = tile_starts(length, side, overlap)
    assert any(s <= start and start + size <= s + side for s in starts)
    assert len(starts) == len(set(starts))


def test_boxes_that_end_where_the_image_goes_on_are_cut() -> None:
    found = [[0, 5, 10, 10], [20, 5, 30, 10], [5, 5, 15, 10], [5, 25, 15, 30], [5, 5, 28.5, 9]]
    # The tile is the left upper one of an image of 60 by 30 pixels.
    cut = touches_cut(np.array(found, float), (0, 0, 30, 30), (60, 30), margin=1)
    assert cut.tolist() == [False, True, False, False, False]
    assert touches_cut(np.array(found, float), (0, 0, 30, 30), (60, 30), margin=2).tolist()[-1]


@given(boxes)
def test_kept_boxes_share_little_and_cover_the_others(one: list[tuple[int, ...]]) -> None:
    found = np.array(one, float)
    scores = np.linspace(0.9, 0.1, len(one))
    kept = keep_largest_scores(found, scores, 0.5)

    def shared(a: np.ndarray, b: np.ndarray) -> float:
        sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
        return float(sides.prod() / min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()))

    assert kept[0] == 0
    for place, i in enumerate(kept):
        assert all(shared(found[i], found[j]) <= 0.5 for j in kept[:place])
    for i in set(range(len(one))) - set(kept.tolist()):
        assert any(shared(found[i], found[j]) > 0.5 for j in kept if scores[j] > scores[i])


def test_a_part_of_a_box_is_suppressed_although_its_iou_is_low() -> None:
    whole, part = (0, 0, 100, 100), (0, 0, 10, 10)
    assert keep_largest_scores(np.array([part, whole], float), np.array([0.2, 0.8]), 0.5) == [1]


def _seen(image: np.ndarray) -> Found:
    """A perfect detector: the box of each lit region that it is shown."""
    found = [r.box_xyxy for r in regions_of(image[..., 0] > 0)]
    boxes = np.array(found, np.float32).reshape(-1, 4)
    return Found(boxes, np.full(len(found), 0.8, np.float32), ("spot",) * len(found))


@given(st.integers(0, 89), st.integers(0, 69), st.integers(1, 7), st.integers(1, 7))
def test_boxes_of_tiles_come_back_to_the_image(x: int, y: int, w: int, h: int) -> None:
    image = np.zeros((80, 100, 3), np.uint8)
    image[y : y + h, x : x + w] = 255
    # The whole view is too coarse to see it; tiles overlap by 8 pixels at least.
    found = detect_in_tiles(
        image, 32, lambda part: NOTHING if part.shape[1] == 100 else _seen(part)
    )
    true = [[x, y, min(x + w, 100), min(y + h, 80)]]
    assert found.xyxy.tolist() == true
    assert found.scores.tolist() == [np.float32(0.8)]  # a whole view of it wins over cut ones


def test_a_defect_larger_than_a_tile_is_one_box() -> None:
    image = np.zeros((80, 100, 3), np.uint8)
    image[20:25, 5:95] = 255
    found = detect_in_tiles(image, 32, _seen)
    assert found.xyxy.tolist() == [[5, 20, 95, 25]]


def test_an_image_that_is_one_tile_is_seen_once() -> None:
    calls = []
    detect_in_tiles(np.zeros((30, 20, 3), np.uint8), 32, lambda x: calls.append(1) or _seen(x))  # type: ignore[func-returns-value]
    assert len(calls) == 1

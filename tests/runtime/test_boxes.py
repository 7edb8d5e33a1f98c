"""Boxes: the same as Ultralytics' own, and fused views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit import ultralytics_env
from toolkit.runtime.boxes import Found, letterbox, resize, suppress, weighted_boxes_fusion
from toolkit.runtime.steps import BoxSteps


def steps(classes: int, *, size: int = 320, iou: float = 0.5) -> BoxSteps:
    return BoxSteps(
        {
            "image_size": size, "stride": 32, "nms_iou": iou,
            "classes": [f"c{i}" for i in range(classes)], "background": None,
            "views": [{"turns": 0, "mirrored": False}],
        }
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("classes", [1, 3])
def test_boxes_are_those_of_ultralytics(seed: int, classes: int) -> None:
    ultralytics_env.prepare()
    from ultralytics.utils import nms, ops

    draw = np.random.default_rng(seed)
    candidates = np.concatenate(
        [draw.uniform(0, 320, (2, 900)), draw.uniform(2, 90, (2, 900)),
         draw.uniform(-0.3, 1, (classes, 900)) ** 3]
    ).astype(np.float32)[None]  # fmt: skip
    image = np.zeros((240, 300, 3), np.uint8)
    found = steps(classes).predict(image, lambda _: [candidates]).boxes
    assert found is not None
    (wanted,) = nms.non_max_suppression(
        torch.from_numpy(candidates), 0.001, 0.5, multi_label=True, max_det=300, nc=classes
    )
    padded, _, _ = letterbox(image, 320, 32)
    xyxy = ops.scale_boxes(padded.shape[:2], wanted[:, :4].clone(), image.shape[:2]).numpy()
    assert len(found.labels) == len(wanted) > 100
    np.testing.assert_array_equal(found.scores, wanted[:, 4].numpy())
    assert found.labels == tuple(f"c{int(i)}" for i in wanted[:, 5])
    np.testing.assert_allclose(found.xyxy, xyxy, atol=1e-4)


@given(height=st.integers(1, 400), width=st.integers(1, 400), size=st.sampled_from([64, 90, 320]))
@settings(max_examples=60, deadline=None)
def test_the_input_is_that_of_ultralytics(height: int, width: int, size: int) -> None:
    ultralytics_env.prepare()
    from ultralytics.data.augment import LetterBox

    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    side = -(-size // 32) * 32
    wanted = LetterBox((side, side), auto=True, stride=32)(image=image)
    np.testing.assert_array_equal(letterbox(image, size, 32)[0], wanted)


def test_end_to_end_heads_need_no_suppression() -> None:
    rows = np.array([[[0, 0, 9, 9, 0.9, 1], [0, 0, 9, 9, 0.8, 1], [0, 0, 9, 9, 0.0001, 0]]])
    image = np.zeros((320, 320, 3), np.uint8)
    found = steps(2).predict(image, lambda _: [rows.astype(np.float32)]).boxes
    assert found is not None
    assert found.labels == ("c1", "c1")


def test_the_best_box_stays_and_the_limit_counts() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [50, 0, 60, 10]], np.float32)
    assert suppress(boxes, 0.5, limit=300).tolist() == [0, 2, 3]
    assert suppress(boxes, 0.9, limit=2).tolist() == [0, 1]
    assert suppress(boxes[:0], 0.5, limit=300).tolist() == []


def _boxes(*rows: tuple[float, ...], label: str = "crack") -> Found:
    array = np.array(rows, np.float32).reshape(-1, 5)
    return Found(array[:, :4], array[:, 4], (label,) * len(array))


def test_one_view_stays_as_it_is() -> None:
    view = _boxes((0, 0, 4, 4, 0.5), (0, 0, 4, 4, 0.4))
    assert weighted_boxes_fusion([view]) is view


def test_what_all_views_see_keeps_its_score_and_takes_the_mean_place() -> None:
    fused = weighted_boxes_fusion([_boxes((0, 0, 10, 10, 0.9)), _boxes((1, 0, 11, 10, 0.3))])
    # weighted by score: 3 to 1
    np.testing.assert_allclose(fused.xyxy, [[0.25, 0, 10.25, 10]], atol=1e-6)
    np.testing.assert_allclose(fused.scores, [0.6], atol=1e-6)


def test_what_one_view_alone_sees_counts_little() -> None:
    fused = weighted_boxes_fusion(
        [_boxes((0, 0, 10, 10, 0.8)), _boxes((50, 50, 60, 60, 0.9)), _boxes()]
    )
    np.testing.assert_allclose(fused.scores, [0.3, 0.8 / 3], atol=1e-6)
    np.testing.assert_array_equal(fused.xyxy[0], [50, 50, 60, 60])


def test_two_boxes_of_one_view_do_not_add_up() -> None:
    fused = weighted_boxes_fusion(
        [_boxes((0, 0, 10, 10, 0.9), (0, 0, 10, 9, 0.8)), _boxes((0, 0, 10, 10, 0.9))]
    )
    np.testing.assert_allclose(fused.scores, [0.9], atol=1e-6)


def test_classes_stay_apart() -> None:
    fused = weighted_boxes_fusion(
        [_boxes((0, 0, 9, 9, 0.4)), _boxes((0, 0, 9, 9, 0.6), label="dirt")]
    )
    assert fused.labels == ("dirt", "crack")
    np.testing.assert_allclose(fused.scores, [0.3, 0.2], atol=1e-6)


def test_nothing_in_any_view() -> None:
    assert len(weighted_boxes_fusion([_boxes(), _boxes()]).labels) == 0


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
    fused = weighted_boxes_fusion([_boxes(*one) for one in rows])
    every = [row for one in rows for row in one]
    assert (len(fused.labels) > 0) == (len(every) > 0)
    if every:
        assert np.all(np.diff(fused.scores) <= 0)
        assert fused.scores.max() <= max(row[4] for row in every) + 1e-6
        assert fused.xyxy[:, :2].min() >= 0
        assert np.all(fused.xyxy[:, :2] < fused.xyxy[:, 2:])


@pytest.mark.parametrize("size_wh", [(40, 40), (33, 57), (7, 90), (180, 10), (90, 60)])
def test_every_pixel_counts_in_a_smaller_image(size_wh: tuple[int, int]) -> None:
    """A white line of one pixel is seen wherever it lies."""
    width, height = size_wh
    for at in range(40, 57):
        image = np.zeros((120, 180), np.uint8)
        image[:, at] = 255
        small = resize(image, size_wh)
        assert small.shape == (height, width)
        assert 0.2 < small.mean() / (255 / 180) < 1.8  # of its share of the light


def test_a_resized_image_is_the_mean_of_whole_factors() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    mean = image.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize(image, (24, 16)) - mean).max() <= 1  # rounded twice
    assert resize(image, (96, 64)) is image

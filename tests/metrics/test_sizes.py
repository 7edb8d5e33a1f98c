"""Sizes are shares of the image; an edge belongs to the larger size."""

import numpy as np
import pytest

from toolkit.metrics import SIZES, MetricError, PredictedBoxes, TrueBoxes, Undefined, box_metrics
from toolkit.metrics.sizes import size_names


def test_edges():
    assert size_names([0, 0.0099, 0.01, 0.0499, 0.05, 1]) == [
        "small", "small", "medium", "medium", "large", "large",
    ]  # fmt: skip
    assert size_names([]) == []


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, dtype=float).reshape(-1, 4)


def score(true, said, *, area, n=1):
    labels = np.zeros(len(true), dtype=int)
    truth = TrueBoxes(true, labels)
    predicted = PredictedBoxes(said, np.linspace(0.9, 0.1, len(said)), np.zeros(len(said), int))
    return box_metrics([truth] * n, [predicted] * n, class_names=["a"], image_areas=[area] * n)


def test_each_size_by_itself_equals_a_set_of_that_size():
    # an image of 100x100: shares of 0.25 %, 4 %, 25 %
    small, medium, large = (0, 0, 5, 5), (20, 20, 40, 40), (50, 50, 100, 100)
    true, said = boxes(small, medium, large), boxes(small, (22, 20, 42, 40), (0, 50, 20, 100))
    ours = score(true, said, area=1e4)
    assert list(ours.class_agnostic_by_size) == list(SIZES)
    one = {
        "small": score(boxes(small), boxes(small), area=1e4),
        "medium": score(boxes(medium), boxes((22, 20, 42, 40)), area=1e4),
        "large": score(boxes(large), boxes((0, 50, 20, 100)), area=1e4),
    }
    for size in SIZES:
        for name in ("map50", "map50_95", "ar100"):
            wanted = getattr(one[size], f"class_agnostic_{name}")
            assert ours.class_agnostic_by_size[size][name] == pytest.approx(wanted), (size, name)
    assert ours.class_agnostic_by_size["large"]["map50"] == 0
    assert ours.class_agnostic_map50 < 1


def test_the_same_boxes_in_a_larger_image_are_smaller():
    box = boxes((0, 0, 10, 10))
    assert score(box, box, area=1e3).class_agnostic_by_size["large"]["map50"] == pytest.approx(1)
    found = score(box, box, area=1e5).class_agnostic_by_size
    assert found["small"]["map50"] == pytest.approx(1)
    assert found["large"]["map50"] == Undefined("no true boxes of this size")


def test_without_true_boxes_there_are_reasons():
    found = score(boxes(), boxes((0, 0, 1, 1)), area=1e4).class_agnostic_by_size
    assert {value for sizes in found.values() for value in sizes.values()} == {
        Undefined("no true boxes of this size")
    }


def test_areas_that_do_not_fit():
    truth, said = TrueBoxes(boxes(), np.array([], int)), boxes()
    predicted = PredictedBoxes(said, np.array([]), np.array([], int))
    with pytest.raises(MetricError, match="2 areas for 1"):
        box_metrics([truth], [predicted], class_names=["a"], image_areas=[1, 2])
    assert box_metrics([truth], [predicted], class_names=["a"]).class_agnostic_by_size == {}


def test_by_class_is_the_mean_of_what_it_is_taken_from():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, size=(40, 2))
    true = np.hstack([corner, corner + 20])
    truth, predicted = [], []
    for i in range(10):
        rows = true[4 * i : 4 * i + 4]
        labels = np.array([0, 1, 0, 1])
        truth.append(TrueBoxes(rows, labels))
        predicted.append(PredictedBoxes(rows + rng.normal(0, 3, rows.shape), rng.random(4), labels))
    ours = box_metrics(truth, predicted, class_names=["a", "b"])
    assert np.mean(list(ours.ap50_95_by_class.values())) == pytest.approx(ours.map50_95)
    assert np.mean(list(ours.ar100_by_class.values())) == pytest.approx(ours.ar100)

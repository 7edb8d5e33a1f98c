"""Results: what a user gets for one image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from toolkit.inference.result import Result
from toolkit.prediction import Boxes, Prediction

IMAGE = np.full((20, 30, 3), 90, np.uint8)
BOXES = Boxes(
    np.array([[1, 2, 10, 12], [3, 4, 6, 7]], np.float32),
    np.array([0.9, 0.1], np.float32),
    ("dent", "dent"),
)


@pytest.mark.parametrize(
    ("score", "threshold", "wanted"),
    [(1.0, 1.0, True), (0.99, 1.0, False), (5.0, None, None), (float("nan"), 1.0, True)],
)
def test_the_decision_is_a_score_at_or_above_the_threshold(
    score: float, threshold: float | None, wanted: bool | None
) -> None:
    assert Result(Prediction(score), IMAGE, threshold).is_defect is wanted


def test_the_anomaly_map_has_the_size_of_the_image() -> None:
    raw = np.array([[0, 1], [0, 1]], np.float32)
    found = Result(Prediction(1.0, anomaly_map=raw), IMAGE, 1.0).anomaly_map
    assert found is not None
    np.testing.assert_array_equal(found, cv2.resize(raw, (30, 20)))
    assert Result(Prediction(1.0), IMAGE, 1.0).anomaly_map is None


def test_plot_leaves_the_image_as_it_is() -> None:
    result = Result(Prediction(0.9, boxes=BOXES), IMAGE, 0.5)
    plot = result.plot()
    assert plot.shape == IMAGE.shape
    assert (plot != IMAGE).any()
    assert (IMAGE == 90).all()


def test_save_writes_the_plot(tmp_path: Path) -> None:
    result = Result(Prediction(0.9, boxes=BOXES), IMAGE, 0.5)
    path = result.save(tmp_path / "deep/plot.png")
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], result.plot())


def test_to_dict_holds_json_values_only() -> None:
    prediction = Prediction(np.float32(0.5), {"good": np.float32(0.5)}, boxes=BOXES)
    record = Result(prediction, IMAGE, 0.5, name="a.png").to_dict()
    assert record["image"] == "a.png"
    assert record["is_defect"] is True
    assert record["class_probabilities"] == {"good": 0.5}
    assert record["boxes"][0]["box_xyxy"] == [1, 2, 10, 12]


@pytest.mark.parametrize(
    ("score", "threshold", "wanted"),
    [(0.9, 0.5, "defect         0.9  1 box  a.png"), (0.1, 0.5, "good           0.1"),
     (0.9, None, "?              0.9")],
)  # fmt: skip
def test_summary_is_one_line(score: float, threshold: float | None, wanted: str) -> None:
    boxes = BOXES if score == 0.9 else None
    line = Result(Prediction(score, boxes=boxes), IMAGE, threshold, name="a.png").summary()
    assert line.startswith(wanted)
    assert "\n" not in line

"""From another method's prediction to prompts."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.errors import DataError
from toolkit.methods.sam.method import grid_prompts, prompts_of
from toolkit.methods.sam.settings import SamSettings
from toolkit.prediction import Boxes, Prediction

SIZE = (100, 80)


def _boxes(*rows: tuple[float, float, float, float, float]) -> Prediction:
    array = np.array(rows, np.float32).reshape(-1, 5)
    boxes = Boxes(array[:, :4], array[:, 4], ("hole",) * len(array))
    return Prediction(0.0, sample_id="a.png", boxes=boxes)


def test_boxes_prompt_best_first_and_only_the_confident_ones() -> None:
    said = _boxes((0, 0, 9, 9, 0.3), (10, 10, 50, 50, 0.9), (0, 0, 5, 5, 0.01))
    prompts, confidence = prompts_of(said, settings=SamSettings(), size_wh=SIZE)
    assert [p.coords.tolist() for p in prompts] == [[[10, 10], [49, 49]], [[0, 0], [8, 8]]]
    assert confidence == pytest.approx([0.9, 0.3])


def test_a_box_over_the_rim_is_cut_to_the_image() -> None:
    (prompt,), _ = prompts_of(_boxes((-5, 70, 20, 95, 1)), settings=SamSettings(), size_wh=SIZE)
    assert prompt.coords.tolist() == [[0, 70], [19, 79]]


@pytest.mark.parametrize(
    "box",
    [
        (100, 0, 120, 10),  # right of the image
        (-20, 0, 0, 10),  # left of it
        (0, 80, 10, 90),  # below
        (10, 10, 10, 20),  # no width
        (float("nan"), 0, 10, 10),
    ],
)
def test_a_box_outside_the_image_is_one_line(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(DataError, match=r"a\.png: prompting box .* no pixel .* 100 x 80") as caught:
        prompts_of(_boxes((*box, 0.9)), settings=SamSettings(), size_wh=SIZE)
    assert "\n" not in str(caught.value)


def test_peaks_of_a_score_map_prompt_clicks() -> None:
    anomaly_map = np.zeros((8, 10), np.float32)
    anomaly_map[2, 3] = 7
    said = Prediction(7, sample_id="a.png", anomaly_map=anomaly_map)
    (prompt,), confidence = prompts_of(said, settings=SamSettings(), size_wh=SIZE)
    assert prompt.coords[0].tolist() == [34.5, 24.5]  # the middle of the map's pixel
    assert prompt.labels[0] == 1
    assert confidence == pytest.approx([7])


def test_a_prediction_that_shows_no_place_is_refused() -> None:
    with pytest.raises(DataError, match="neither boxes nor anomaly maps"):
        prompts_of(Prediction(1, sample_id="a.png"), settings=SamSettings(), size_wh=SIZE)


def test_the_grid_covers_the_image() -> None:
    points = [p.coords[0].tolist() for p in grid_prompts(SIZE, 2)]
    assert points == [[25, 20], [75, 20], [25, 60], [75, 60]]

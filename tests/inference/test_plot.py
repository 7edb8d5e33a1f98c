"""Pictures: what is drawn is where it was said to be, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from toolkit.errors import ToolkitError
from toolkit.inference.plot import (
    PREDICTED,
    TRUTH,
    overlay,
    save_picture,
    validation_heat_range,
)
from toolkit.prediction import Boxes, Prediction
from toolkit.runs.prediction_io import write_predictions
from toolkit.runs.run import Run

IMAGE = np.full((60, 80, 3), 50, np.uint8)


def boxes(*scores: float) -> Boxes:
    xyxy = np.tile(np.array([[20, 30, 40, 50]], np.float32), (len(scores), 1))
    return Boxes(xyxy, np.array(scores, np.float32), ("dent",) * len(scores))


def coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.asarray((picture == colour).all(axis=2))


def test_nothing_to_draw_changes_nothing() -> None:
    picture = overlay(IMAGE, Prediction(1.0, sample_id="a", boxes=Boxes.none()))
    assert (picture == IMAGE).all()
    assert picture is not IMAGE


def test_the_image_itself_is_not_drawn_on() -> None:
    image = IMAGE.copy()
    mask = np.ones(IMAGE.shape[:2], np.bool_)
    heat = np.random.default_rng(0).random((7, 9), np.float32)
    overlay(
        image,
        Prediction(1.0, sample_id="a", boxes=boxes(0.9), mask=mask, anomaly_map=heat),
        truth=mask,
    )
    assert (image == IMAGE).all()


def test_a_box_is_half_open() -> None:
    drawn = coloured(overlay(IMAGE, Prediction(1.0, sample_id="a", boxes=boxes(0.9))), PREDICTED)
    rows, columns = np.nonzero(drawn[31:])  # below the words
    assert (columns.min(), columns.max()) == (20, 39)
    assert rows.max() + 31 == 49


@pytest.mark.parametrize(("score", "drawn"), [(0.24, False), (0.25, True), (0.9, True)])
def test_only_confident_boxes_are_drawn(score: float, drawn: bool) -> None:
    picture = overlay(IMAGE, Prediction(1.0, sample_id="a", boxes=boxes(score)))
    assert coloured(picture, PREDICTED).any() == drawn


@pytest.mark.parametrize("heat", [False, True])  # over a heat map outlines must not get lost
def test_outlines(heat: bool) -> None:
    mask, truth = np.zeros((2, *IMAGE.shape[:2]), np.bool_)
    mask[5:15, 5:15] = True
    truth[30:50, 30:60] = True
    anomaly_map = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4) if heat else None
    picture = overlay(
        IMAGE, Prediction(1.0, sample_id="a", mask=mask, anomaly_map=anomaly_map), truth=truth
    )
    assert coloured(picture, PREDICTED)[5, 5:15].all()
    assert coloured(picture, TRUTH)[49, 30:60].all()
    assert not coloured(picture, TRUTH)[35:45, 35:55].any()  # an outline, not filled


def test_heat_is_hot_where_the_score_is_high() -> None:
    heat = np.zeros((6, 8), np.float32)
    heat[4, 6] = 5.0
    picture = overlay(IMAGE, Prediction(1.0, sample_id="a", anomaly_map=heat)).astype(int)
    assert picture[45, 65].sum() > picture[5, 5].sum() + 100
    weak = overlay(IMAGE, Prediction(1.0, sample_id="a", anomaly_map=heat), heat_range=(0.0, 500.0))
    assert weak[45, 65].astype(int).sum() < picture[45, 65].sum() - 100


@pytest.mark.parametrize("value", [0.0, -3.0, 1e30])
def test_a_flat_map_is_drawn_too(value: float) -> None:
    picture = overlay(
        IMAGE, Prediction(1.0, sample_id="a", anomaly_map=np.full((3, 4), value, np.float32))
    )
    assert picture.shape == IMAGE.shape
    assert (picture == picture[0, 0]).all()


def test_boxes_beyond_the_image_do_no_harm() -> None:
    wide = Boxes(np.array([[-50, -50, 500, 500]], np.float32), np.array([1.0], np.float32), ("x",))
    assert overlay(IMAGE, Prediction(1.0, sample_id="a", boxes=wide)).shape == IMAGE.shape


def test_colours_are_saved_as_rgb(tmp_path: Path) -> None:
    picture = np.zeros((4, 5, 3), np.uint8)
    picture[..., 0] = 255
    save_picture(picture, tmp_path / "new/red.png")
    assert (cv2.imread(str(tmp_path / "new/red.png"))[..., 2] == 255).all()
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["red.png"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolkitError, match="cannot be written"):
        save_picture(IMAGE, tmp_path / "file/red.png")


@pytest.mark.parametrize(("defects", "high"), [(1, 3.0), (0, 7.0)])
def test_heat_range_of_good_images_leaves_room_for_defects(
    defects: int, high: float, tmp_path: Path
) -> None:
    run = Run.create(tmp_path, method="patchcore", settings={}, split={}, data={})
    run.update_metadata(labels={"val": defects})
    anomaly_map = np.array([[1, 1], [1, 3]], np.float32)
    predictions = [Prediction(3.0, sample_id=str(i), anomaly_map=anomaly_map) for i in range(3)]
    write_predictions(run.path / "predictions", "val", predictions)
    assert validation_heat_range(run) == (1.0, high)

"""From another method's prediction to prompts, and from prompts to one mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from toolkit.errors import DataError
from toolkit.methods.base import Predictor
from toolkit.methods.sam import predictor as module
from toolkit.methods.sam.predictor import SamPredictor, prompts_of, tta_config
from toolkit.methods.sam.prompts import grid_prompts
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.tta import NO_TTA
from toolkit.prediction import Boxes, Prediction

SIZE = (100, 80)
IMAGE = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)


def _boxes(*rows: tuple[float, float, float, float, float]) -> Prediction:
    array = np.array(rows, np.float32).reshape(-1, 5)
    return Prediction(0.0, boxes=Boxes(array[:, :4], array[:, 4], ("hole",) * len(array)))


def test_boxes_prompt_best_first_and_only_the_confident_ones() -> None:
    found = _boxes((0, 0, 9, 9, 0.3), (10, 10, 50, 50, 0.9), (0, 0, 5, 5, 0.01))
    prompts, confidences = prompts_of(found, IMAGE, SamSettings())
    assert [p.coords.tolist() for p in prompts] == [[[10, 10], [49, 49]], [[0, 0], [8, 8]]]
    assert confidences == pytest.approx([0.9, 0.3])


def test_a_box_over_the_rim_is_cut_to_the_image() -> None:
    (prompt,), _ = prompts_of(_boxes((-5, 70, 20, 95, 1)), IMAGE, SamSettings())
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
    with pytest.raises(DataError, match=r"prompting box .* no pixel .* 100 x 80") as caught:
        prompts_of(_boxes((*box, 0.9)), IMAGE, SamSettings())
    assert "\n" not in str(caught.value)


def test_peaks_of_an_anomaly_map_prompt_clicks() -> None:
    anomaly_map = np.zeros((8, 10), np.float32)
    anomaly_map[2, 3] = 7
    (prompt,), confidences = prompts_of(
        Prediction(7, anomaly_map=anomaly_map), IMAGE, SamSettings()
    )
    assert prompt.coords[0].tolist() == [34.5, 24.5]  # the middle of the map's pixel
    assert prompt.labels[0] == 1
    assert confidences == pytest.approx([7])


def test_a_prediction_without_a_place_is_refused() -> None:
    with pytest.raises(DataError, match="neither boxes nor anomaly maps"):
        prompts_of(Prediction(1), IMAGE, SamSettings())


def test_the_grid_covers_the_image() -> None:
    points = [p.coords[0].tolist() for p in grid_prompts(SIZE, 2)]
    assert points == [[25, 20], [75, 20], [25, 60], [75, 60]]


def test_tta_is_off_by_default_and_its_sizes_are_settings() -> None:
    assert tta_config(SamSettings()) == NO_TTA
    config = tta_config(SamSettings(tta=True, tta_views=4))
    assert (config.views, config.crops, config.crop_scale) == (4, 1, 2.0)
    assert tta_config(SamSettings(tta=True, crop_scale=0)).crops == 0


@pytest.mark.parametrize("wrong", [{"tta_views": 9}, {"augmentations": 0}, {"batch": 0}])
def test_impossible_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamSettings(**wrong)  # type: ignore[arg-type]


class _Prompter(Predictor):
    def __init__(self, prediction: Prediction) -> None:
        self.prediction, self.calls = prediction, 0

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        self.calls += 1
        return [self.prediction for _ in images]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the calls of encoder and decoder."""
    counts = {"encode": 0, "decode": 0}
    for name in counts:
        real = getattr(module, name)

        def counted(*args, _name=name, _real=real):
            counts[_name] += 1
            return _real(*args)

        monkeypatch.setattr(module, name, counted)
    return counts


def test_ten_boxes_are_one_encoding_and_one_call_of_the_decoder(small_sam, calls) -> None:
    found = _boxes(*((i, i, i + 30, i + 30, 0.9 - i / 100) for i in range(10)))
    prompter = _Prompter(found)
    (prediction,) = SamPredictor(small_sam, SamSettings(), prompter).predict([IMAGE])
    assert calls == {"encode": 1, "decode": 1}
    assert prompter.calls == 1
    assert prediction.mask is not None
    assert prediction.mask.shape == (80, 100)
    assert prediction.mask.dtype == np.bool_


def test_the_mask_is_the_union_of_those_that_score_well(small_sam) -> None:
    boxes = [(5, 5, 40, 40, 0.9), (50, 30, 90, 70, 0.8), (0, 0, 9, 9, 0.06)]
    settings = SamSettings(score_ratio=0.0, mask_threshold=-5.0)

    def predict(*rows: tuple[float, ...]) -> Prediction:
        (found,) = SamPredictor(small_sam, settings, _Prompter(_boxes(*rows))).predict([IMAGE])
        return found

    alone = [predict(box) for box in boxes]
    together = predict(*boxes)
    assert together.score == pytest.approx(max(one.score for one in alone), abs=1e-5)
    union = np.any([one.mask for one in alone], axis=0)
    assert np.mean(together.mask == union) > 0.999


def test_without_a_prompter_a_grid_prompts_and_without_a_box_there_is_no_mask(
    small_sam, calls
) -> None:
    settings = SamSettings(points_per_side=5)
    (prediction,) = SamPredictor(small_sam, settings).predict([IMAGE])
    assert calls == {"encode": 1, "decode": 2}  # 16 prompts and 9
    assert prediction.mask is not None
    (nothing,) = SamPredictor(small_sam, settings, _Prompter(_boxes())).predict([IMAGE])
    assert nothing.score == 0
    assert not nothing.mask.any()
    assert calls["encode"] == 1


def test_with_tta_each_view_is_encoded_once(small_sam, monkeypatch) -> None:
    from toolkit.methods.sam import encoder

    encoded = []
    real = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda *args: encoded.append(1) or real(*args))
    settings = SamSettings(tta=True, tta_views=2, tta_crops=1)
    prompter = _Prompter(_boxes((5, 5, 25, 25, 0.9), (6, 6, 26, 26, 0.8)))
    (prediction,) = SamPredictor(small_sam, settings, prompter).predict([IMAGE])
    assert len(encoded) == 3  # two views and one crop, which both boxes share
    assert prediction.mask.shape == (80, 100)

"""From another method's prediction to prompts, and from prompts to one mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.errors import DataError
from toolkit.methods.base import Predictor
from toolkit.methods.sam import tta
from toolkit.methods.sam.embeddings import EmbeddingCache
from toolkit.methods.sam.encoder import Encoder
from toolkit.methods.sam.predictor import SamPredictor, prompts_of, tta_config
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.tta import Decoders, TTAConfig
from toolkit.prediction import Boxes, Prediction
from toolkit.runtime.prompts import grid_prompts

pytestmark = pytest.mark.slow
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


def _predictor(sam, settings: SamSettings, prompter: Predictor | None = None) -> SamPredictor:
    return SamPredictor(Decoders(sam), settings, "hash of the encoder", prompter)


def test_tta_is_off_by_default_and_its_sizes_are_settings() -> None:
    settings = SamSettings(crop_below=0.1, max_crops=2)
    assert tta_config(settings) == TTAConfig(1, 0, 2.0, 2, 0.1)
    assert tta_config(SamSettings(crop_scale=0)).crop_below == 0
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
    encode, decode = Encoder.__call__, tta.decode

    def counted(name, real):
        def call(*args):
            counts[name] += 1
            return real(*args)

        return call

    monkeypatch.setattr(Encoder, "__call__", counted("encode", encode))
    monkeypatch.setattr(tta, "decode", counted("decode", decode))
    return counts


def test_ten_boxes_are_one_encoding_and_one_call_of_the_decoder(small_sam, calls) -> None:
    found = _boxes(*((i, i, i + 30, i + 30, 0.9 - i / 100) for i in range(10)))
    prompter = _Prompter(found)
    (prediction,) = _predictor(small_sam, SamSettings(crop_below=0), prompter).predict([IMAGE])
    assert calls == {"encode": 1, "decode": 1}
    assert prompter.calls == 1
    assert prediction.mask is not None
    assert prediction.mask.shape == (80, 100)
    assert prediction.mask.dtype == np.bool_


@pytest.fixture
def encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember what the encoder answers, for tests that ask for the same picture several times."""
    encode = Encoder.__call__
    answers: dict[bytes, torch.Tensor] = {}

    def remembered(self: Encoder, image: np.ndarray) -> torch.Tensor:
        key = image.tobytes()
        if key not in answers:
            answers[key] = encode(self, image)
        return answers[key]

    monkeypatch.setattr(Encoder, "__call__", remembered)


def test_the_mask_is_the_union_of_those_that_score_well(small_sam, encoded_once: None) -> None:
    boxes = [(5, 5, 40, 40, 0.9), (50, 30, 90, 70, 0.8), (0, 0, 9, 9, 0.06)]
    settings = SamSettings(score_ratio=0.0, mask_threshold=-5.0, crop_below=0)

    def predict(*rows: tuple[float, ...]) -> Prediction:
        (found,) = _predictor(small_sam, settings, _Prompter(_boxes(*rows))).predict([IMAGE])
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
    (prediction,) = _predictor(small_sam, settings).predict([IMAGE])
    assert calls == {"encode": 1, "decode": 2}  # 16 prompts and 9
    assert prediction.mask is not None
    (nothing,) = _predictor(small_sam, settings, _Prompter(_boxes())).predict([IMAGE])
    assert nothing.score == 0
    assert not nothing.mask.any()
    assert calls["encode"] == 1


def test_with_tta_each_view_is_encoded_once(small_sam, calls) -> None:
    settings = SamSettings(tta=True, tta_views=2, tta_crops=1, crop_below=0)
    prompter = _Prompter(_boxes((5, 5, 25, 25, 0.9), (6, 6, 26, 26, 0.8)))
    (prediction,) = _predictor(small_sam, settings, prompter).predict([IMAGE])
    assert calls["encode"] == 3  # two views and one crop, which both boxes share
    assert prediction.mask.shape == (80, 100)


def test_a_second_prompter_of_the_same_picture_does_not_encode_it_again(
    small_sam, calls, tmp_path
) -> None:
    prompter = _Prompter(_boxes((5, 5, 60, 60, 0.9)))
    found = []
    for _ in range(2):
        store = EmbeddingCache(small_sam, "e", tmp_path)
        predictor = SamPredictor(Decoders(small_sam), SamSettings(), "e", prompter, store)
        found += predictor.predict([IMAGE])
        if len(found) == 1:
            assert calls["encode"] == 1
    assert found[0].seconds is None
    assert found[1].seconds > 0  # what the encoding would have taken
    assert calls["encode"] == 3  # two to measure that, once per predictor
    assert found[0].score == found[1].score
    alone = _predictor(small_sam, SamSettings(), prompter).predict([IMAGE])[0]
    assert alone.score == found[0].score  # with and without the store
    np.testing.assert_array_equal(found[0].mask, found[1].mask)


def test_an_engine_encodes(small_sam) -> None:
    prompter = _Prompter(_boxes((5, 5, 60, 60, 0.9)))
    predictor = _predictor(small_sam, SamSettings(), prompter)
    graph, seen = predictor.graph(), []

    def engine(image: np.ndarray) -> list[np.ndarray]:
        seen.append(image.shape)
        with torch.inference_mode():
            return [one.numpy() for one in graph.module(torch.from_numpy(image))]

    (found,) = predictor.with_engine(engine).predict([IMAGE])
    assert seen == [(1, 1024, 1024, 4)]
    assert found.score == pytest.approx(predictor.predict([IMAGE])[0].score, abs=0.02)


def test_what_an_engine_encodes_is_kept_for_other_prompters_apart_from_what_torch_does(
    small_sam, tmp_path: Path
) -> None:
    graph, calls = _predictor(small_sam, SamSettings()).graph(), []

    def engine(image: np.ndarray) -> list[np.ndarray]:
        calls.append(image)
        with torch.inference_mode():
            return [one.numpy() for one in graph.module(torch.from_numpy(image))]

    store = EmbeddingCache(small_sam, "e", tmp_path)
    prompter = _Prompter(_boxes((5, 5, 60, 60, 0.9)))
    found = []
    for _ in range(2):
        predictor = SamPredictor(Decoders(small_sam), SamSettings(), "e", prompter, store)
        found += predictor.with_engine(engine, "openvino float32").predict([IMAGE])
        if len(found) == 1:
            assert len(calls) == 1
    assert len(calls) == 3  # two to measure what reading has saved
    assert found[0].score == found[1].score
    (folder,) = (tmp_path / "embeddings").iterdir()
    assert folder != store._arrays.folder

"""SAM without torch gives the masks that SAM in torch gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide

from toolkit.errors import DataError
from toolkit.methods.base import EnginePredictor, Graph, Predictor
from toolkit.methods.sam.model import copy_decoder
from toolkit.methods.sam.predictor import SamPredictor
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.tta import Decoders
from toolkit.prediction import Boxes, Prediction
from toolkit.runtime.segmentation import PROMPTS_PER_CALL, sam_input
from toolkit.runtime.steps import make_steps
from toolkit.weights.mobile_sam_network import empty_mobile_sam

pytestmark = pytest.mark.slow
IMAGE = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
ROWS = np.array([[5, 5, 60, 60], [20, 10, 90, 70], [0, 0, 30, 30], [50, 40, 100, 80]], np.float32)


class _Prompter(Predictor):
    parallel = True

    def __init__(self, found: Prediction) -> None:
        self.found = found

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        return [self.found for _ in images]


def _boxes(count: int) -> Prediction:
    rows = np.tile(ROWS, (-(-count // 4), 1))[:count]
    scores = np.linspace(0.9, 0.3, count).astype(np.float32)
    return Prediction(0.9, boxes=Boxes(rows, scores, ("hole",) * count))


@pytest.fixture(scope="module")
def small_sam():
    torch.manual_seed(0)
    return empty_mobile_sam().eval()


def _in_torch(graph: Graph) -> Callable[..., list[np.ndarray]]:
    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [one.numpy() for one in graph.module(*map(torch.from_numpy, inputs))]

    return run


def _without_torch(predictor: SamPredictor) -> Predictor:
    """The same networks, still in torch, with the steps of an export around them."""
    graph = predictor.graph()
    return predictor.with_engine(_in_torch(graph)).with_parts(
        {name: _in_torch(part) for name, part in predictor.parts().items()}, predictor.prompters()
    )


CLICKS = Prediction(
    0.9, anomaly_map=np.pad(np.ones((4, 5), np.float32), 9) + np.eye(22, 23, dtype=np.float32) / 9
)


@pytest.mark.parametrize(
    ("found", "settings"),
    [
        (_boxes(1), {}),
        (_boxes(4), {"score_ratio": 0.9}),
        (_boxes(PROMPTS_PER_CALL + 2), {"max_prompts": 99, "mask_threshold": 0.01}),
        (_boxes(0), {}),
        (CLICKS, {}),
        (None, {"points_per_side": 2}),
    ],
    ids=["one box", "four boxes", "two calls", "nothing", "clicks", "grid"],
)
@pytest.mark.parametrize("choice", [{}, {"box": {"large": "zero_shot"}}])
def test_masks_and_scores_are_those_of_torch(
    small_sam, found: Prediction | None, settings: dict[str, Any], choice: dict[str, Any]
) -> None:
    untrained = copy_decoder(small_sam)
    with torch.no_grad():
        untrained.mask_decoder.mask_tokens.weight += 0.5
    predictor = SamPredictor(
        Decoders(small_sam, untrained, choice), SamSettings(**settings), "e",
        None if found is None else _Prompter(found),
    )  # fmt: skip
    (wanted,) = predictor.predict([IMAGE])
    fast = _without_torch(predictor)
    assert type(fast) is EnginePredictor
    (same,) = fast.predict([IMAGE])
    assert same.score == pytest.approx(wanted.score, rel=0.02)  # bfloat16, where torch has it
    assert same.mask.shape == IMAGE.shape[:2]
    assert (same.mask != wanted.mask).mean() < 0.02


@pytest.mark.parametrize("size_wh", [(100, 80), (900, 900), (33, 2000), (1024, 7)])
def test_an_image_is_scaled_as_segment_anything_does(size_wh: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size_wh[::-1], 3), np.uint8)
    wanted = ResizeLongestSide(1024).apply_image(image)
    height, width = wanted.shape[:2]
    found = sam_input(image)[0]
    np.testing.assert_array_equal(found[:height, :width, :3], wanted)
    assert found[..., 3].sum() == 255 * height * width
    assert Image.fromarray(found).size == (1024, 1024)


def test_a_box_outside_the_image_is_one_line(small_sam) -> None:
    outside = Prediction(0.9, boxes=Boxes(ROWS[:1] + 200, np.ones(1, np.float32), ("hole",)))
    predictor = SamPredictor(Decoders(small_sam), SamSettings(), "e", _Prompter(outside))
    with pytest.raises(DataError, match=r"prompting box .* has no pixel in the image"):
        _without_torch(predictor).predict([IMAGE])


def test_several_views_and_crops_stay_in_torch(small_sam) -> None:
    for settings in (SamSettings(tta=True), SamSettings(crop_below=0.2)):
        predictor = SamPredictor(Decoders(small_sam), settings, "e")
        assert predictor.steps() is None
        assert isinstance(_without_torch(predictor), SamPredictor)


def test_a_decoder_that_is_missing_is_said(small_sam) -> None:
    steps = SamPredictor(Decoders(small_sam), SamSettings(), "e").steps()
    assert steps is not None
    with pytest.raises(ValueError, match="no decoder tuned"):
        make_steps(steps, {"tuned": lambda *_: []}, {})

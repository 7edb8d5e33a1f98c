"""A view and back: masks, prompts and logits keep their place; views are averaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.methods.sam import tta
from toolkit.methods.sam.crops import crop_around
from toolkit.methods.sam.prompts import with_click
from toolkit.methods.sam.targets import low_res_mask
from toolkit.methods.sam.tta import (
    NO_TTA,
    VIEW_COUNT,
    WHOLE,
    Decoders,
    MaskPrediction,
    TTAConfig,
    View,
    predict_masks,
    refine,
    tta_views,
)
from toolkit.metrics.masks import mask_iou
from toolkit.runtime.prompts import Prompt, box_prompt, click_prompt

numbers = st.integers(0, VIEW_COUNT - 1)
SIZE = (400, 300)
CONFIG = TTAConfig(views=2, crops=2, crop_scale=2.0)


def test_views_differ_and_the_first_is_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    views = [View(number).of_mask(image) for number in range(VIEW_COUNT)]
    assert len({view.tobytes() + bytes(view.shape) for view in views}) == VIEW_COUNT
    np.testing.assert_array_equal(WHOLE.of_image(image), image)


@given(numbers, st.integers(0, 29), st.integers(0, 39), st.booleans())
def test_a_click_stays_on_its_pixel(number: int, x: int, y: int, cropped: bool) -> None:
    view = View(number, (0, 5, 30, 35)) if cropped and 5 <= y < 35 else View(number)
    mask = np.zeros((40, 30), bool)
    mask[y, x] = True
    prompt = view.of_prompt(click_prompt(x, y), (30, 40))
    ((row, column),) = np.argwhere(view.of_mask(mask))
    assert prompt.coords[0].tolist() == [column, row]


@pytest.mark.parametrize("number", range(VIEW_COUNT))
def test_the_corners_of_a_box_stay_first_and_last_and_clicks_stay_clicks(number: int) -> None:
    mask = np.zeros((50, 60), bool)
    mask[10:20, 5:35] = True
    view = View(number, (0, 0, 40, 40))
    prompt = view.of_prompt(
        with_click(box_prompt((5, 10, 35, 20)), 7, 12, positive=False), (60, 50)
    )
    ys, xs = np.nonzero(view.of_mask(mask))
    assert prompt.coords[:2].tolist() == [[xs.min(), ys.min()], [xs.max(), ys.max()]]
    assert prompt.labels.tolist() == [2, 3, 0]


@settings(max_examples=25, deadline=None)
@given(
    numbers, st.integers(0, 300), st.integers(0, 200), st.integers(20, 90), st.integers(20, 90),
    st.booleans(),
)  # fmt: skip
def test_a_mask_pasted_back_is_the_mask(
    number: int, x: int, y: int, width: int, height: int, cropped: bool
) -> None:
    mask = np.zeros((300, 400), bool)
    mask[y : y + height, x : x + width] = True
    crop = crop_around((x, y, min(x + width, 400), min(y + height, 300)), SIZE, 2.0)
    view = View(number, crop if cropped else None)
    logits = torch.from_numpy(low_res_mask(view.of_mask(mask)))[None, None] * 20 - 10
    found = _prediction({view: logits})
    # Half a pixel of the decoder's grid on each side, at most.
    side = max(view.size_wh(SIZE))
    rim = 2 * (min(width, 400 - x) + min(height, 300 - y)) * max(side / 256, 1)
    assert np.count_nonzero(found.mask() != mask) <= rim
    x0, y0, x1, y1 = view.crop or (0, 0, *SIZE)
    shown = found.mask(-11.0)  # below all logits: what the view shows
    assert shown.sum() == (x1 - x0) * (y1 - y0)
    assert shown[y0:y1, x0:x1].all()


def test_views_of_an_image_differ_and_the_first_is_plain() -> None:
    views = tta_views(VIEW_COUNT)
    assert views[0] == WHOLE
    assert {view.number for view in views} == set(range(VIEW_COUNT))
    assert tta_views(2, (0, 0, 9, 9)) == [View(0, (0, 0, 9, 9)), View(3, (0, 0, 9, 9))]


def test_a_view_is_its_part_of_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    np.testing.assert_array_equal(View(0, (2, 1, 7, 6)).of_image(image), image[1:6, 2:7])
    prompt = Prompt(np.array([[3, 4], [0, 0]], np.float32), np.array([1, -1]))
    assert WHOLE.of_prompt(prompt, (9, 9)).coords.tolist() == prompt.coords.tolist()
    inside = View(0, (40, 40, 80, 80)).of_prompt(click_prompt(50, 60), (100, 100))
    assert inside.coords[0].tolist() == [10, 20]  # a padding point has no place
    assert inside.labels.tolist() == [1, -1]


class _Decoded:
    def __init__(self, logits: torch.Tensor) -> None:
        self.tokens = logits
        self._logits = logits

    def low_res_logits(self, index: slice, *, masks: int = 4) -> torch.Tensor:
        return self._logits[index].expand(-1, masks, -1, -1)

    def iou_predictions(self) -> torch.Tensor:
        return torch.linspace(0.2, 0.8, len(self._logits))[:, None].expand(-1, 4)


def _prediction(logits: dict[View, torch.Tensor]) -> MaskPrediction:
    answers = {view: tta._Answer(0.5, low[0].float) for view, low in logits.items()}
    return MaskPrediction(None, SIZE, answers)  # type: ignore[arg-type]


class _Truth:
    """Stands in for encoder and decoder: embeddings are the mask to be found."""

    device = torch.device("cpu")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mask: np.ndarray) -> None:
        self.mask, self.views, self.calls, self.feedback = mask, [], [], []
        monkeypatch.setattr(tta, "decode", self._decode)

    def embedding_of(self, view: View) -> torch.Tensor:
        self.views.append(view)
        return torch.from_numpy(low_res_mask(view.of_mask(self.mask)))[None] * 20 - 10

    def _decode(self, sam, embeddings, prompts, scales, masks) -> _Decoded:
        self.calls.append((sam, len(prompts)))
        self.feedback.append(masks)
        return _Decoded(embeddings.expand(len(prompts), -1, -1, -1))

    def predict(self, *prompts: Prompt, config: TTAConfig = NO_TTA, **more) -> list[MaskPrediction]:
        decoders = Decoders(self, **more)  # type: ignore[arg-type]
        return predict_masks(decoders, self.embedding_of, prompts, SIZE, config)


SPECK = box_prompt((200, 100, 205, 104))
CLOSE = TTAConfig(crop_scale=2.0, max_crops=2, crop_below=0.2)


@pytest.fixture
def speck() -> np.ndarray:
    mask = np.zeros((300, 400), bool)
    mask[100:104, 200:205] = True
    return mask


def test_without_crops_the_whole_image_is_seen_once(monkeypatch, speck: np.ndarray) -> None:
    sam = _Truth(monkeypatch, speck)
    (found,) = sam.predict(SPECK)
    assert sam.views == [WHOLE]
    assert list(found.answers) == [WHOLE]


@pytest.mark.parametrize("prompt", [SPECK, click_prompt(202, 102)])
def test_a_small_region_is_answered_from_a_crop_alone(
    monkeypatch, speck: np.ndarray, prompt: Prompt
) -> None:
    speck[200:290, 20:110] = True  # another, larger region does not matter
    sam = _Truth(monkeypatch, speck)
    (plain,) = sam.predict(prompt)
    (close,) = sam.predict(prompt, config=CLOSE)
    (view,) = close.answers
    assert view.crop is not None
    assert view.crop[2] - view.crop[0] == 64
    x0, y0, x1, y1 = view.crop
    truth = np.zeros_like(speck)
    truth[y0:y1, x0:x1] = speck[y0:y1, x0:x1]
    assert mask_iou(close.mask(), truth) > mask_iou(plain.mask(), truth)
    assert close.mean_iou_prediction() == pytest.approx(0.2)


def test_a_large_region_is_answered_from_the_whole_image(monkeypatch) -> None:
    mask = np.zeros((300, 400), bool)
    mask[50:150, 50:150] = True
    sam = _Truth(monkeypatch, mask)
    # The box is 0.2 of the longer side: not below it.
    for prompt in (box_prompt((50, 50, 130, 130)), click_prompt(90, 90)):
        (found,) = sam.predict(prompt, config=CLOSE)
        assert list(found.answers) == [WHOLE]


def test_prompts_of_one_place_share_a_crop_and_one_call_of_the_decoder(
    monkeypatch, speck: np.ndarray
) -> None:
    sam = _Truth(monkeypatch, speck)
    near = [box_prompt((200 + i, 100, 205 + i, 104)) for i in range(5)]
    far = [box_prompt((20, 20, 25, 25)), box_prompt((300, 200, 310, 210))]
    found = sam.predict(*near, *far, config=CLOSE)
    assert [number for _, number in sam.calls] == [7]
    shown = [next(iter(one.answers)).crop for one in found]
    assert len(set(shown[:5])) == 1
    assert shown[5] not in (None, shown[0])
    assert shown[6] is None  # a third crop is not allowed
    assert len(sam.views) == 3


def test_each_kind_and_size_is_answered_by_its_decoder(monkeypatch, speck: np.ndarray) -> None:
    speck[200:290, 20:110] = True
    sam = _Truth(monkeypatch, speck)
    other = type("Other", (), {"device": sam.device})()
    choice = {
        "box": {"small": "zero_shot", "large": "tuned"},
        "click": {"small": "tuned", "large": "zero_shot"},
    }
    prompts = [
        SPECK, box_prompt((20, 200, 110, 290)), click_prompt(202, 102), click_prompt(60, 250)
    ]  # fmt: skip
    found = sam.predict(*prompts, config=CLOSE, zero_shot=other, choice=choice)
    assert [one.model is other for one in found] == [True, False, False, True]


def test_with_tta_views_of_the_whole_image_and_of_the_crop_are_averaged(
    monkeypatch, speck: np.ndarray
) -> None:
    sam = _Truth(monkeypatch, speck)
    for prompt in (SPECK, click_prompt(202, 102)):
        (close,) = sam.predict(prompt, config=CONFIG)
        assert [v.crop is None for v in close.answers] == [True, True, False, False]


def test_a_click_that_its_mask_misses_gets_no_crop(monkeypatch, speck: np.ndarray) -> None:
    sam = _Truth(monkeypatch, speck)
    for config in (CONFIG, CLOSE):
        (found,) = sam.predict(click_prompt(210, 110), config=config)
        assert {v.crop for v in found.answers} == {None}


def test_the_threshold_is_of_the_mean_and_of_what_is_shown() -> None:
    crop = View(0, (0, 0, 200, 200))
    low, high = torch.full((1, 1, 256, 256), -0.9), torch.full((1, 1, 256, 256), 0.1)
    found = _prediction({WHOLE: low, crop: high})
    assert not found.mask().any()
    assert found.mask(-0.5).sum() == 200 * 200  # the mean there is -0.4
    assert _prediction({crop: high}).mask(-99).sum() == 200 * 200


def test_a_region_that_fills_the_image_has_no_crop(monkeypatch) -> None:
    sam = _Truth(monkeypatch, np.ones((300, 400), bool))
    (found,) = sam.predict(click_prompt(5, 5), config=CONFIG)
    assert {v.crop for v in found.answers} == {None}


def test_a_refinement_feeds_every_view_its_own_logits(monkeypatch, speck: np.ndarray) -> None:
    sam = _Truth(monkeypatch, speck)
    prompt = click_prompt(202, 102)
    (first,) = sam.predict(prompt, config=CONFIG)
    sam.views.clear()
    refine(sam.embedding_of, with_click(prompt, 5, 5, positive=False), SIZE, first)
    assert sam.views == list(first.answers)
    assert sam.feedback[:-1] == [None, None]
    for fed_back, view in zip(sam.feedback[-1], first.answers, strict=True):
        assert torch.equal(fed_back, sam.embedding_of(view))

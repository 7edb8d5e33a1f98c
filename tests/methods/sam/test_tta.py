"""A view and back: masks, prompts and logits keep their place; views are averaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.methods.sam import tta
from toolkit.methods.sam.crops import crop_around
from toolkit.methods.sam.prompts import Prompt, box_prompt, click_prompt, with_click
from toolkit.methods.sam.targets import low_res_mask
from toolkit.methods.sam.tta import (
    NO_TTA,
    VIEW_COUNT,
    WHOLE,
    MaskPrediction,
    TTAConfig,
    View,
    predict_mask,
    refine,
    tta_views,
)
from toolkit.metrics.masks import mask_iou

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
    total, count = tta._sum_in_image(logits, [view], SIZE)
    # Half a pixel of the decoder's grid on each side, at most.
    side = max(view.size_wh(SIZE))
    rim = 2 * (min(width, 400 - x) + min(height, 300 - y)) * max(side / 256, 1)
    assert np.count_nonzero((total.numpy() > 0) != mask) <= rim
    x0, y0, x1, y1 = view.crop or (0, 0, *SIZE)
    assert count.sum() == (x1 - x0) * (y1 - y0)
    assert count[y0:y1, x0:x1].all()


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
        self._logits = logits

    def low_res_logits(self) -> torch.Tensor:
        return self._logits.expand(-1, 4, -1, -1)

    def iou_predictions(self) -> torch.Tensor:
        return torch.linspace(0.2, 0.8, len(self._logits))[:, None].expand(-1, 4)


class _Truth:
    """Stands in for encoder and decoder: embeddings are the mask to be found."""

    device = torch.device("cpu")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mask: np.ndarray) -> None:
        self.mask, self.views, self.feedback = mask, [], []
        monkeypatch.setattr(tta, "decode", self._decode)

    def embedding_of(self, view: View) -> torch.Tensor:
        self.views.append(view)
        return torch.from_numpy(low_res_mask(view.of_mask(self.mask)))[None] * 20 - 10

    def _decode(self, sam, embeddings, prompts, scales, masks) -> _Decoded:
        self.feedback.append(masks)
        return _Decoded(embeddings)


@pytest.fixture
def speck() -> np.ndarray:
    mask = np.zeros((300, 400), bool)
    mask[100:104, 200:205] = True
    return mask


def test_without_tta_the_whole_image_is_seen_once(monkeypatch, speck: np.ndarray) -> None:
    sam = _Truth(monkeypatch, speck)
    found = predict_mask(sam, sam.embedding_of, box_prompt((200, 100, 205, 104)), SIZE)
    assert sam.views == [WHOLE]
    assert list(found.iou_predictions) == [WHOLE]


def test_a_crop_finds_the_rim_of_a_speck_that_the_whole_image_blurs(
    monkeypatch, speck: np.ndarray
) -> None:
    sam = _Truth(monkeypatch, speck)
    prompt = box_prompt((200, 100, 205, 104))
    plain = predict_mask(sam, sam.embedding_of, prompt, SIZE).mask()
    config = TTAConfig(views=1, crops=2, crop_scale=2.0)
    close = predict_mask(sam, sam.embedding_of, prompt, SIZE, config)
    assert mask_iou(close.mask(), speck) > mask_iou(plain, speck)
    assert [v.crop is None for v in close.iou_predictions] == [True, False, False]
    assert close.mean_iou_prediction() == pytest.approx((0.2 + 0.2 + 0.8) / 3)


def test_the_crop_of_a_click_is_where_its_first_mask_lies(monkeypatch, speck: np.ndarray) -> None:
    speck[200:290, 20:110] = True  # another, larger region does not matter
    sam = _Truth(monkeypatch, speck)
    found = predict_mask(sam, sam.embedding_of, click_prompt(202, 102), SIZE, CONFIG)
    (crop,) = {v.crop for v in found.iou_predictions if v.crop}
    assert crop[2] - crop[0] == 64
    assert crop[0] <= 200 < 205 <= crop[2]


def test_a_click_that_its_mask_misses_gets_no_crop(monkeypatch, speck: np.ndarray) -> None:
    sam = _Truth(monkeypatch, speck)
    found = predict_mask(sam, sam.embedding_of, click_prompt(210, 110), SIZE, CONFIG)
    assert {v.crop for v in found.iou_predictions} == {None}


def test_the_threshold_is_of_the_mean_and_not_of_the_sum() -> None:
    total, count = torch.tensor([[-0.9, -0.9, 0.1, 0.0]]), torch.tensor([[2.0, 4.0, 1.0, 0.0]])
    found = MaskPrediction(None, total, count, {}, {})  # type: ignore[arg-type]
    assert found.mask().tolist() == [[False, False, True, False]]
    assert found.mask(-0.25).tolist() == [[False, True, True, False]]


def test_a_region_that_fills_the_image_has_no_crop(monkeypatch) -> None:
    sam = _Truth(monkeypatch, np.ones((300, 400), bool))
    found = predict_mask(sam, sam.embedding_of, click_prompt(5, 5), SIZE, CONFIG)
    assert {v.crop for v in found.iou_predictions} == {None}


def test_a_refinement_feeds_every_view_its_own_logits(monkeypatch, speck: np.ndarray) -> None:
    sam = _Truth(monkeypatch, speck)
    prompt = click_prompt(202, 102)
    first = predict_mask(sam, sam.embedding_of, prompt, SIZE, CONFIG)
    sam.views.clear()
    refine(sam.embedding_of, with_click(prompt, 5, 5, positive=False), SIZE, first)
    assert sam.views == list(first.low_res_logits)
    assert sam.feedback[:2] == [None, None]
    for fed_back, view in zip(sam.feedback[2], first.low_res_logits, strict=True):
        assert torch.equal(fed_back, sam.embedding_of(view))


def test_without_crops_none_is_made(monkeypatch, speck: np.ndarray) -> None:
    sam = _Truth(monkeypatch, speck)
    prompt = box_prompt((200, 100, 205, 104))
    predict_mask(sam, sam.embedding_of, prompt, SIZE, TTAConfig(views=3))
    assert [v.crop for v in sam.views] == [None] * 3
    assert TTAConfig() == NO_TTA

"""Answers from several frames, with a decoder that says what the test wants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from toolkit.methods.sam import answers as answers_module
from toolkit.methods.sam import looks as looks_module
from toolkit.methods.sam.answers import answer_prompts
from toolkit.methods.sam.decoder import Decoded
from toolkit.methods.sam.frames import Frame, mask_in
from toolkit.methods.sam.looks import PLAIN, Answer, Looks, answer, corrected, under_clicks
from toolkit.methods.sam.prompts import box_prompt, click_prompt, with_click
from toolkit.methods.sam.targets import low_mask
from toolkit.metrics.masks import mask_iou

SIZE = (400, 300)
LOOKS = Looks(views=2, closer=2, zoom=2.0)


class _Truth:
    """Stands in for encoder and decoder: embeddings carry the mask to be found."""

    device = torch.device("cpu")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mask: np.ndarray) -> None:
        self.mask, self.asked, self.told = mask, [], []
        monkeypatch.setattr(looks_module, "decode", self._decode)

    def shown(self, frame: Frame) -> torch.Tensor:
        self.asked.append(frame)
        return torch.from_numpy(low_mask(mask_in(self.mask, frame)))[None] * 20 - 10

    def _decode(self, sam, embeddings, prompts, scales, masks):
        self.told.append(masks)
        quality = torch.linspace(0.2, 0.8, len(embeddings))[:, None].expand(-1, 4)
        return Decoded(embeddings.expand(-1, 4, -1, -1), quality)


@pytest.fixture
def speck() -> np.ndarray:
    mask = np.zeros((300, 400), bool)
    mask[100:104, 200:205] = True
    return mask


def test_a_plain_look_sees_the_whole_image_once(monkeypatch, speck: np.ndarray) -> None:
    sam = _Truth(monkeypatch, speck)
    said = answer(sam, sam.shown, box_prompt((200, 100, 205, 104)), SIZE, PLAIN)
    assert sam.asked == [Frame()]
    assert list(said.quality) == [Frame()]


def test_a_window_finds_the_rim_of_a_speck_that_the_whole_image_blurs(
    monkeypatch, speck: np.ndarray
) -> None:
    sam = _Truth(monkeypatch, speck)
    prompt = box_prompt((200, 100, 205, 104))
    plain = answer(sam, sam.shown, prompt, SIZE, PLAIN).mask()
    closer = answer(sam, sam.shown, prompt, SIZE, Looks(views=1, closer=2, zoom=2.0))
    assert mask_iou(closer.mask(), speck) > mask_iou(plain, speck)
    assert [f.window is None for f in closer.quality] == [True, False, False]
    assert closer.mean_quality() == pytest.approx((0.2 + 0.2 + 0.8) / 3)


def test_a_click_is_looked_at_where_its_first_answer_lies(monkeypatch, speck: np.ndarray) -> None:
    speck[200:290, 20:110] = True  # another, larger region does not matter
    sam = _Truth(monkeypatch, speck)
    said = answer(sam, sam.shown, click_prompt(202, 102), SIZE, LOOKS)
    windows = {f.window for f in said.quality if f.window}
    (window,) = windows
    assert window[2] - window[0] == 64
    assert window[0] <= 200 < 205 <= window[2]


def test_a_click_that_the_first_look_misses_is_answered_by_a_default_window_alone(
    monkeypatch, speck: np.ndarray
) -> None:
    speck[200:290, 20:110] = True  # the first look answers with another region
    sam = _Truth(monkeypatch, speck)
    said = answer(sam, sam.shown, click_prompt(210, 110), SIZE, LOOKS)
    (window,) = {f.window for f in said.quality}
    assert window is not None
    assert window[2] - window[0] == 64  # for a region of a tenth of the image's side
    assert window[0] <= 210 < window[2]
    assert said.mask()[100:104, 200:205].any()
    assert not said.mask()[200:290, 20:110].any()


def test_the_threshold_is_of_the_mean_and_not_of_the_sum() -> None:
    total, count = torch.tensor([[-0.9, -0.9, 0.1]]), torch.tensor([[2.0, 4.0, 1.0]])
    said = Answer(None, total, count, quality={}, low={})  # type: ignore[arg-type]
    assert said.mask().tolist() == [[False, False, True]]
    assert replace(said, threshold=-0.25).mask().tolist() == [[False, True, True]]


def test_smoothing_takes_ragged_outlines_and_stays_where_somebody_looked() -> None:
    mean = torch.full((60, 60), -2.0)
    mean[20:40, 20:40] = 2.0
    mean[10, 50] = 2.0  # a pixel apart
    mean[30, 40] = 2.0  # and one on the rim
    count = torch.full((60, 60), 3.0)
    count[:, :22] = 0.0
    said = Answer(None, mean * count, count, quality={}, low={}, threshold=-0.5)  # type: ignore[arg-type]
    ragged, smooth = said.mask(), replace(said, sigma=2.0).mask()
    assert ragged[10, 50]
    assert ragged[30, 40]
    assert not smooth[10, 50]
    assert not smooth[:, :22].any()
    truth = np.zeros((60, 60), bool)
    truth[20:40, 22:40] = True
    assert mask_iou(smooth, truth) > 0.85


@pytest.mark.parametrize(
    ("smooth", "sigma"),
    [
        (0.0, 0.0),  # off
        (1.0, 400 / 256),  # one pixel of the decoder's grid, in pixels of an image of 400 x 300
        (2.0, 800 / 256),
    ],
)
def test_smoothing_is_told_in_pixels_of_the_decoder(
    monkeypatch, smooth: float, sigma: float
) -> None:
    mask = np.zeros((300, 400), bool)
    mask[100:200, 100:250] = True
    sam = _Truth(monkeypatch, mask)
    looks = Looks(views=2, smooth=smooth)
    said = answer(sam, sam.shown, box_prompt((100, 100, 250, 200)), SIZE, looks)
    assert said.sigma == pytest.approx(sigma)
    again = with_click(box_prompt((100, 100, 250, 200)), 150, 150, positive=True)
    assert corrected(sam.shown, again, SIZE, said).sigma == said.sigma
    assert mask_iou(said.mask(), mask) > 0.97


def test_a_region_that_fills_the_image_has_no_window(monkeypatch) -> None:
    sam = _Truth(monkeypatch, np.ones((300, 400), bool))
    said = answer(sam, sam.shown, click_prompt(5, 5), SIZE, LOOKS)
    assert {f.window for f in said.quality} == {None}


def test_a_correction_tells_every_frame_its_own_answer(monkeypatch, speck: np.ndarray) -> None:
    sam = _Truth(monkeypatch, speck)
    prompt = click_prompt(202, 102)
    first = answer(sam, sam.shown, prompt, SIZE, LOOKS)
    sam.asked.clear()
    corrected(sam.shown, with_click(prompt, 5, 5, positive=False), SIZE, first)
    assert sam.asked == list(first.low)
    assert sam.told[:2] == [None, None]
    for told, frame in zip(sam.told[2], first.low, strict=True):
        assert torch.equal(told, sam.shown(frame))


class _Two:
    """A tuned and an untouched decoder that answer any prompt with their own mask."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tuned: np.ndarray, untouched: np.ndarray):
        self.tuned, self.untouched, self.asked = _Model(tuned), _Model(untouched), []
        monkeypatch.setattr(looks_module, "decode", self._decode)

    def shown(self, frame: Frame) -> torch.Tensor:
        self.asked.append(frame)
        return torch.zeros(1, 1, 1)

    def _decode(self, sam, embeddings, prompts, scales, masks):
        frames = self.asked[-len(embeddings) :]
        low = [low_mask(mask_in(sam.in_view(f.view), f)) for f in frames]
        logits = torch.from_numpy(np.stack(low))[:, None] * 20 - 10
        return Decoded(logits.expand(-1, 4, -1, -1), torch.ones(len(embeddings), 4))


class _Model:
    device = torch.device("cpu")

    def __init__(self, mask: np.ndarray, other: np.ndarray | None = None) -> None:
        self.mask, self.other = mask, mask if other is None else other

    def in_view(self, view: int) -> np.ndarray:
        return self.mask if view == 0 else self.other


def _square(side: int, at: int = 100) -> np.ndarray:
    mask = np.zeros((300, 400), bool)
    mask[at : at + side, at : at + side] = True
    return mask


@pytest.mark.parametrize(
    ("prompt", "untouched", "asked"),
    [
        # 32 pixels squared of an image of 900 are about 14 squared of one of 400.
        (box_prompt((100, 100, 108, 108)), _Model(_square(8)), "untouched"),
        (box_prompt((100, 100, 160, 160)), _Model(_square(8)), "tuned"),  # a large box
        (click_prompt(104, 104), _Model(_square(8)), "untouched"),
        (click_prompt(104, 104), _Model(_square(60)), "tuned"),  # it means something large
        (click_prompt(104, 104), _Model(_square(8), _square(60)), "tuned"),  # or may
        (click_prompt(104, 104), _Model(_square(8), _square(8, 200)), "tuned"),  # no agreement
        (click_prompt(104, 104), _Model(_square(0)), "tuned"),  # it says nothing
    ],
)
def test_small_regions_are_left_to_the_untouched_model(
    monkeypatch, prompt, untouched: _Model, asked: str
) -> None:
    two = _Two(monkeypatch, _square(60), _square(8))
    two.untouched = untouched
    looks = Looks(views=2, threshold=-0.25, untouched=untouched)
    said = answer(two.tuned, two.shown, prompt, SIZE, looks)
    assert said.by is getattr(two, asked)
    assert said.threshold == (0.0 if asked == "untouched" else -0.25)
    assert len(said.low) == (1 if asked == "untouched" else 2)
    more = corrected(two.shown, with_click(prompt, 5, 5, positive=False), SIZE, said)
    assert (more.by, more.threshold) == (said.by, said.threshold)


@pytest.mark.parametrize(
    ("prompt", "kept"),
    [
        (click_prompt(2, 2), {"left"}),
        (click_prompt(20, 2), {"right"}),
        (click_prompt(12, 2), {"left"}),  # beside both: the nearer one
        (with_click(click_prompt(2, 2), 20, 2, positive=True), {"left", "right"}),
        (with_click(click_prompt(2, 2), 20, 2, positive=False), {"left"}),
        (box_prompt((0, 0, 5, 5)), {"left", "right"}),  # a box is no click
    ],
)
def test_a_click_keeps_the_part_of_the_mask_under_it(prompt, kept: set[str]) -> None:
    mask = np.zeros((10, 30), bool)
    mask[1:5, 1:9] = mask[1:5, 18:25] = True
    said = under_clicks(mask, prompt)
    assert {name for name, x in (("left", 3), ("right", 20)) if said[2, x]} == kept
    assert not (said & ~mask).any()


def test_prompts_of_one_place_share_a_window_and_windows_are_limited(
    monkeypatch, speck: np.ndarray
) -> None:
    sam = _Truth(monkeypatch, speck)
    near = [(200, 100, 205, 104), (201, 101, 206, 105), (196, 98, 206, 104)]
    far = [(20, 20, 25, 25), (300, 200, 310, 210), (50, 250, 60, 260)]
    masks, quality = answer_prompts(
        sam, sam.shown, [box_prompt(box) for box in [*near, *far]], SIZE, LOOKS, limit=2
    )
    assert masks.shape == (6, 300, 400)
    assert quality.dtype == np.float32
    assert len({f.window for f in sam.asked if f.window}) == 2
    assert answers_module._WIDER >= 1


def test_no_window_is_looked_at_where_none_is_asked_for(monkeypatch, speck: np.ndarray) -> None:
    sam = _Truth(monkeypatch, speck)
    answer_prompts(
        sam, sam.shown, [box_prompt((200, 100, 205, 104))], SIZE, Looks(views=3), limit=3
    )
    assert [f.window for f in sam.asked] == [None] * 3

"""Changes of images: what each does, that masks move along, and that the seed decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from toolkit.decisions.changes import CHANGES, STRENGTHS, changed
from toolkit.errors import ConfigError

MOVING = [kind for kind, change in CHANGES.items() if change.matrix is not None]


def picture(height: int = 300, width: int = 400) -> NDArray[np.uint8]:
    """A fine texture, away from black and white."""
    y, x = np.mgrid[:height, :width]
    waves = 128 + 50 * np.sin(x / 1.9) * np.cos(y / 1.7)
    return np.stack([waves, waves * 0.9, waves * 0.8], axis=2).astype(np.uint8)


@pytest.mark.parametrize("kind", CHANGES)
def test_stronger_changes_more_and_the_input_stays(kind: str) -> None:
    image = picture()
    before = image.copy()
    far = []
    for strength in (0, *STRENGTHS):
        found, mask = changed(image, None, kind, strength)
        assert found.shape == image.shape
        assert found.dtype == np.uint8
        assert mask is None
        far.append(float(np.abs(found.astype(int) - image).mean()))
    assert far[0] == 0
    # A texture that is moved far enough looks as strange as one that is moved further.
    assert far[2] > 0  # at strength 1 the blur of so small a picture is below a grey level
    if kind not in MOVING:
        assert far == sorted(far)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", CHANGES)
def test_the_seed_and_the_number_decide(kind: str) -> None:
    image = picture()
    first = changed(image, None, kind, 4, seed=1, number=2)[0]
    np.testing.assert_array_equal(first, changed(image, None, kind, 4, seed=1, number=2)[0])
    others = [changed(image, None, kind, 4, seed=1, number=n)[0] for n in range(3, 9)]
    drawn = any((other != first).any() for other in others)
    assert drawn is (kind in (*MOVING, "noise"))  # dust lies on the lens: alike for all images


@given(
    height=st.integers(40, 120),
    width=st.integers(40, 120),
    strength=st.sampled_from(STRENGTHS),
    number=st.integers(0, 50),
    kind=st.sampled_from(MOVING),
)
def test_masks_move_along(height: int, width: int, strength: int, number: int, kind: str) -> None:
    mask = np.zeros((height, width), np.bool_)
    mask[height // 3 : 2 * height // 3, width // 3 : width // 2 + 2] = True
    image = np.where(mask[:, :, None], 200, 20).astype(np.uint8).repeat(3, axis=2)
    moved, moved_mask = changed(image, mask, kind, strength, number=number)
    assert moved_mask is not None
    bright = moved[:, :, 0] >= 110
    # The same pixels but for those on the border, which are blended in the image.
    overlap = (bright & moved_mask).sum() / (bright | moved_mask).sum()
    assert overlap > 0.8


@pytest.mark.parametrize("kind", [kind for kind in CHANGES if kind not in MOVING])
def test_where_nothing_moves_the_mask_stays(kind: str) -> None:
    mask = np.zeros((300, 400), np.bool_)
    assert changed(picture(), mask, kind, 5)[1] is mask


def test_the_mask_is_false_where_nothing_was() -> None:
    mask = np.ones((100, 100), np.bool_)
    _, moved = changed(np.zeros((100, 100, 3), np.uint8), mask, "shift", 5)
    assert moved is not None
    assert 0.8 < moved.mean() < 1


def test_values_by_hand() -> None:
    flat = np.full((40, 40, 3), 100, np.uint8)
    assert changed(flat, None, "darker", 5)[0].max() == 50
    assert changed(flat, None, "brighter", 5)[0].min() == 150
    assert changed(flat, None, "gamma", 5)[0][0, 0, 0] == round(255 * (100 / 255) ** 2)
    assert changed(flat, None, "white-balance", 5)[0][0, 0].tolist() == [120, 100, 80]
    assert changed(flat, None, "blur", 5)[0].tolist() == flat.tolist()
    noise = changed(np.full((200, 200, 3), 128, np.uint8), None, "noise", 3)[0].astype(float)
    assert noise.std() == pytest.approx(10, rel=0.02)
    assert changed(np.full((9, 9, 3), 250, np.uint8), None, "brighter", 1)[0].max() == 255


@pytest.mark.parametrize(
    ("kind", "strength", "message"),
    [("darkr", 1, "change darkr: unknown"), ("blur", 6, "strength 6: must be 0 to 5")],
)
def test_unknown(kind: str, strength: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        changed(picture(), None, kind, strength)

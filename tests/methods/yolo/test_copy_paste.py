"""Pasted defects: where they land, what they look like, and that only training images are read."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from toolkit.data.dataset_cards import Symmetry
from toolkit.data.splits import Split
from toolkit.methods.yolo.copy_paste import paste, pasted_images, product_mask

FIXED = Symmetry(flips=(), rotation="none")
ROUND = Symmetry(flips=("horizontal", "vertical"), rotation="any")


def _disc(centre: tuple[int, int] = (50, 50), radius: int = 40) -> np.ndarray:
    y, x = np.mgrid[:100, :100]
    image = np.full((100, 100, 3), 240, np.uint8)
    image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2] = 60
    return image


def _with_defect() -> tuple[np.ndarray, np.ndarray]:
    """A disc with a red spot on its rim, right of the middle."""
    image, mask = _disc(), np.zeros((100, 100), np.bool_)
    mask[45:55, 76:86] = True
    image[mask] = (200, 0, 0)
    return image, mask


def _centre(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


def test_the_product_is_what_differs_from_the_frame_with_its_holes() -> None:
    image = _disc()
    image[45:55, 45:55] = 240  # looks like background, lies inside
    found = product_mask(image)
    truth = _disc()[..., 0] == 60
    assert (found & truth).sum() / (found | truth).sum() > 0.97


@pytest.mark.parametrize(
    "image",
    [
        np.full((40, 60, 3), 90, np.uint8),  # nothing differs
        np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8),  # a texture to the edge
    ],
)
def test_without_an_even_background_all_is_product(image: np.ndarray) -> None:
    assert product_mask(image).all()


def test_a_product_without_symmetry_keeps_the_defect_in_its_place() -> None:
    image, mask = _with_defect()
    target = _disc(centre=(42, 55))  # the product lies 8 to the left and 5 down
    made = paste(image, mask, target, symmetry=FIXED, rng=np.random.default_rng(0))
    assert made is not None
    _, moved = made
    # to the shift's standard deviation of 2 pixels
    assert np.all(np.abs(_centre(moved) - _centre(mask) - np.array([-8, 5])) < 8)
    assert abs(int(moved.sum()) - int(mask.sum())) <= 10


def test_a_round_product_has_the_defect_at_any_angle_of_the_same_radius() -> None:
    image, mask = _with_defect()
    rng = np.random.default_rng(0)
    places = []
    for _ in range(30):
        made = paste(image, mask, _disc(), symmetry=ROUND, rng=rng)
        assert made is not None
        places.append(_centre(made[1]) - 50)
    radii = np.linalg.norm(places, axis=1)
    assert np.all(np.abs(radii - 30.5) < 8)
    assert {(x > 0, y > 0) for x, y in places} == {
        (False, False), (False, True), (True, False), (True, True),
    }  # fmt: skip


def test_the_defect_is_whole_its_edge_is_blended_and_the_rest_untouched() -> None:
    image, mask = _with_defect()
    target = _disc()
    made = paste(image, mask, target, symmetry=FIXED, rng=np.random.default_rng(1))
    assert made is not None
    pasted, moved = made
    inner = moved & np.roll(moved, 1, 0) & np.roll(moved, -1, 0)
    inner &= np.roll(moved, 1, 1) & np.roll(moved, -1, 1)
    assert np.all(pasted[inner][:, 0] > 190)
    far = cv2.dilate(moved.astype(np.uint8), np.ones((7, 7))) == 0
    np.testing.assert_array_equal(pasted[far], target[far])
    assert pasted.dtype == np.uint8


def test_where_no_place_is_found_nothing_is_made() -> None:
    image, mask = _with_defect()
    small = _disc(radius=10)  # the defect would hang in the air
    assert paste(image, mask, small, symmetry=FIXED, rng=np.random.default_rng(0)) is None


def test_images_are_made_from_the_training_part_and_repeat_by_seed(split: Split) -> None:
    first, again, other = (
        list(pasted_images(split.train, per_image=2, symmetry=FIXED, seed=seed))
        for seed in (1, 1, 2)
    )
    defects = sum(s.is_defect for s in split.train)
    assert 0 < len(first) <= 2 * defects
    assert {label for _, _, label in first} <= set(split.dataset.classes)
    for (image, mask, label), (same_image, _, same_label) in zip(first, again, strict=True):
        np.testing.assert_array_equal(image, same_image)
        assert label == same_label
        assert mask.any()
        assert mask.shape == image.shape[:2]
    pairs = zip(first, other, strict=False)
    assert any(not np.array_equal(a[0], b[0]) for a, b in pairs)


def test_without_good_images_nothing_is_made(split: Split) -> None:
    defects = dataclasses.replace(split, train=tuple(s for s in split.train if s.is_defect))
    assert not list(pasted_images(defects.train, per_image=2, symmetry=FIXED, seed=0))

"""Pasted defects: where they land, what they look like, and that only training images are read."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from toolkit.data.dataset_cards import Symmetry
from toolkit.data.images import read_truth
from toolkit.data.regions import regions_of
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


@pytest.mark.parametrize("shrink", [0.3, 0.6])
def test_a_shrunk_defect_lies_where_the_whole_one_would(shrink: float) -> None:
    image, mask = _with_defect()
    sizes = []
    for seed in range(20):
        made = paste(
            image, mask, _disc(), symmetry=FIXED, rng=np.random.default_rng(seed), shrink=shrink
        )
        assert made is not None
        pasted, moved = made
        sizes.append(moved.sum() / mask.sum())
        near = cv2.dilate(mask.astype(np.uint8), np.ones((21, 21))) > 0  # the shift, five-fold
        assert np.all(near[moved])
        assert pasted[moved][:, 0].mean() > 120  # the spot is red, the disc is dark
    assert abs(np.mean(sizes) - shrink**2) < 0.25 * shrink**2


def test_a_defect_keeps_away_from_where_others_are() -> None:
    image, mask = _with_defect()
    taken = np.zeros((100, 100), np.bool_)
    taken[:, 50:] = True  # the right half
    rng = np.random.default_rng(0)
    for _ in range(10):
        made = paste(image, mask, _disc(), symmetry=ROUND, rng=rng, taken=taken)
        assert made is not None
        assert not made[1][:, 50 - 7 :].any()
    full = np.ones((100, 100), np.bool_)
    assert paste(image, mask, _disc(), symmetry=ROUND, rng=rng, taken=full) is None


def test_images_are_made_from_the_training_part_and_repeat_by_seed(split: Split) -> None:
    first, again, other = (
        list(pasted_images(split.train, per_defect=2, beside=1, symmetry=FIXED, seed=seed))
        for seed in (1, 1, 2)
    )
    defects = sum(s.is_defect for s in split.train)
    assert 0 < len(first) <= 2 * defects
    assert {label for p in first for label in p.labels} <= set(split.dataset.classes)
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image, same.image)
        assert one.labels == same.labels
        for mask in one.masks:
            assert mask.any()
            assert mask.shape == one.image.shape[:2]
    assert any(not np.array_equal(a.image, b.image) for a, b in zip(first, other, strict=False))


def _sizes(mask: np.ndarray) -> list[int]:
    boxes = [r.box_xyxy for r in regions_of(mask)]
    return [max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]


def test_further_defects_stand_beside_at_sizes_of_their_type(split: Split) -> None:
    own: dict[str, list[int]] = {}
    for sample in (s for s in split.train if s.is_defect):
        own.setdefault(sample.label, []).extend(_sizes(read_truth(sample)))
    made = list(pasted_images(split.train, per_defect=4, beside=2, symmetry=ROUND, seed=0))
    assert {len(p.masks) for p in made} == {1, 2, 3}
    for pasted in made:
        assert len(pasted.labels) == len(pasted.masks)
        assert np.sum(pasted.masks, axis=0).max() == 1  # none lies on another
        for mask, label in zip(pasted.masks[1:], pasted.labels[1:], strict=True):
            # Resampling and the diagonal of a turned box change a size by less than half.
            assert max(_sizes(mask)) > 0.5 * min(own[label])
            assert max(_sizes(mask)) < 1.5 * max(own[label])
    alone = pasted_images(split.train, per_defect=4, beside=0, symmetry=ROUND, seed=0)
    assert {len(p.masks) for p in alone} == {1}


def test_without_good_images_nothing_is_made(split: Split) -> None:
    defects = dataclasses.replace(split, train=tuple(s for s in split.train if s.is_defect))
    assert not list(pasted_images(defects.train, per_defect=2, beside=2, symmetry=FIXED, seed=0))

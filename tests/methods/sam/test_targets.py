from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from toolkit.data.types import Sample
from toolkit.errors import DataError
from toolkit.methods.sam.targets import good_targets, low_res_mask, region_targets
from toolkit.methods.sam.tta import WHOLE


def _sample(folder: Path, mask: np.ndarray | None, name: str = "a") -> Sample:
    height, width = mask.shape if mask is not None else (30, 40)
    cv2.imwrite(str(folder / f"{name}.png"), np.zeros((height, width, 3), np.uint8))
    masks = ()
    if mask is not None:
        cv2.imwrite(str(folder / f"{name}_mask.png"), mask.astype(np.uint8) * 255)
        masks = (folder / f"{name}_mask.png",)
    label = "scratch" if mask is not None else "good"
    return Sample(id=name, image=folder / f"{name}.png", label=label, masks=masks)


def test_each_region_in_each_view_is_a_target(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), bool)
    mask[2:5, 3:9] = mask[20:25, 30:31] = True
    targets = region_targets([_sample(tmp_path, mask)], augmentations=2)
    assert [t.view.number for t in targets] == [0, 1, 0, 1]
    assert targets[0].box_xyxy == (3, 2, 9, 5)
    assert {t.size_wh for t in targets} == {(40, 30), (30, 40)}  # view 1 is a quarter turn
    assert {t.region.area for t in targets if t.region} == {18, 5}


def test_crops_have_the_whole_region_larger_and_are_the_same_in_every_run(tmp_path: Path) -> None:
    mask = np.zeros((600, 800), bool)
    mask[300:330, 400:460] = True
    sample = _sample(tmp_path, mask)
    targets = region_targets([sample], augmentations=1, crops_per_region=5, crop_scale=2.0)
    again = region_targets([sample], augmentations=3, crops_per_region=5, crop_scale=2.0)
    assert [t.view for t in targets[1:]] == [t.view for t in again[3:]]
    assert len({t.view for t in targets}) == 6
    for target in targets[1:]:
        assert target.view.crop is not None
        assert target.region is not None
        assert target.region.area == 30 * 60
        visible = target.region.mask(target.size_wh)
        np.testing.assert_array_equal(visible, target.view.of_mask(mask))
        assert (
            target.low_res_mask.sum() > 5 * targets[0].low_res_mask.sum()
        )  # the small region is small no more


def test_a_region_that_fills_the_image_has_further_views_in_place_of_crops(
    tmp_path: Path,
) -> None:
    mask = np.zeros((100, 100), bool)
    mask[2:98, 2:98] = True
    targets = region_targets(
        [_sample(tmp_path, mask)], augmentations=2, crops_per_region=3, crop_scale=2.0
    )
    assert [(t.view.number, t.view.crop) for t in targets] == [(v, None) for v in range(5)]


def test_an_empty_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png: its mask is empty"):
        region_targets([_sample(tmp_path, np.zeros((30, 40), bool))])


@pytest.mark.parametrize(
    ("shape", "covered"),
    [
        ((900, 900), 256 * 256),  # a square fills the decoder's grid
        ((450, 900), 128 * 256),  # the rest is padding below
        ((900, 300), 256 * 85.33),  # or to the right
    ],
)
def test_low_res_masks_are_scaled_and_padded_like_the_image(
    shape: tuple[int, int], covered: float
) -> None:
    low = low_res_mask(np.ones(shape, bool))
    assert low.shape == (256, 256)
    assert low.sum() == pytest.approx(covered, rel=0.01)


def test_good_places_have_the_sizes_of_defects_and_no_mask(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), bool)
    mask[2:5, 3:9] = True
    like = region_targets([_sample(tmp_path, mask)])
    good = [_sample(tmp_path, None, f"g{i}") for i in range(3)]
    places = good_targets(good, like, 10, np.random.default_rng(0))
    assert len(places) == 3
    for place in places:
        x0, y0, x1, y1 = place.box_xyxy
        assert (x1 - x0, y1 - y0) == (6, 3)
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= 40
        assert y1 <= 30
        assert place.region is None
        assert place.view == WHOLE
        assert not place.low_res_mask.any()

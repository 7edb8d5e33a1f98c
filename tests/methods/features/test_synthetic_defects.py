"""Synthetic defects change the image within their masks only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.methods.features.synthetic_defects import cut_paste, perlin_defect, perlin_noise


@given(height=st.integers(40, 120), width=st.integers(40, 120), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_cut_paste_changes_nothing_outside_its_mask(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    changed, mask = cut_paste(image, rng)
    assert mask.any()
    assert mask.mean() < 0.3
    assert (changed[~mask] == image[~mask]).all()
    assert (changed[mask] != image[mask]).any()


@given(height=st.integers(40, 120), width=st.integers(40, 120), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_perlin_defect_lies_in_and_right_around_its_mask(
    height: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 30, np.uint8)
    texture = np.full((height, width, 3), 220, np.uint8)
    changed, mask = perlin_defect(image, texture, rng)
    assert mask.any()
    assert mask.mean() < 0.06
    import cv2

    near = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0  # the soft rim
    assert (changed[~near] == image[~near]).all()
    assert (changed[mask] != image[mask]).any()


@pytest.mark.parametrize("cells", [1, 4, 9])
def test_perlin_noise_is_smooth_bounded_and_seeded(cells: int) -> None:
    noise = perlin_noise((90, 60), cells=cells, rng=np.random.default_rng(0))
    again = perlin_noise((90, 60), cells=cells, rng=np.random.default_rng(0))
    assert np.array_equal(noise, again)
    assert np.abs(noise).max() <= np.sqrt(2)
    assert noise.std() > 0.05
    # The steepest slope of gradient noise, per pixel, shrinks with the cell's size.
    assert np.abs(np.diff(noise, axis=0)).max() < 6 * cells / 90

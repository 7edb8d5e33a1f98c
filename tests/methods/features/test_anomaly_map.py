"""Anomaly maps: resampling, smoothing, image score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from toolkit.methods.features.anomaly_map import resample
from toolkit.runtime.steps import image_score, smooth, to_image_grid


@pytest.mark.parametrize(
    "shape",
    [
        (40, 40),
        (33, 57),  # not square
    ],
)
@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_smooth_equals_scipy(shape: tuple[int, int], sigma: float) -> None:
    anomaly_map = np.random.default_rng(0).random(shape).astype(np.float32)
    ours = smooth(anomaly_map, sigma)
    # OpenCV's REFLECT_101 does not repeat the edge pixel; scipy calls that "mirror".
    np.testing.assert_allclose(ours, gaussian_filter(anomaly_map, sigma, mode="mirror"), atol=1e-6)


def test_smooth_zero_is_identity() -> None:
    anomaly_map = np.random.default_rng(0).random((5, 5)).astype(np.float32)
    assert np.array_equal(smooth(anomaly_map, 0), anomaly_map)


@given(
    rows=st.integers(2, 20),
    columns=st.integers(2, 20),
    sigma=st.floats(0.3, 8),
    value=st.floats(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_smooth_keeps_a_constant_map_of_any_size(
    rows: int, columns: int, sigma: float, value: float
) -> None:
    constant = np.full((rows, columns), value, np.float32)
    np.testing.assert_allclose(smooth(constant, sigma), constant, rtol=1e-5, atol=1e-30)


def test_resample_keeps_cell_centres() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    fine = resample(ramp, (8, 8))
    assert np.allclose(to_image_grid(ramp[0, 0].numpy(), (8, 8)), fine[0, 0])
    # Cell i of 4 covers pixels 2i and 2i + 1, whose mean is its value away from the edges.
    assert fine[0, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("max", 10_000.0),
        ("top_1_percent", 9950.5),  # mean of the highest 100 of 10,000
    ],
)
def test_image_score(how: str, expected: float) -> None:
    anomaly_map = np.arange(1, 10_001, dtype=np.float32).reshape(100, 100)
    assert image_score(anomaly_map, how) == pytest.approx(expected)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60))
@settings(deadline=None)
def test_top1_is_the_mean_of_the_highest(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    # A few equal values, values in order and one peak: samples of them mislead.
    values = rng.integers(0, 4, height * width).astype(np.float32)
    values[rng.integers(values.size) :] += 10 * rng.integers(0, 2)
    count = max(1, round(0.01 * values.size))
    expected = np.sort(values)[-count:].mean()
    assert image_score(values.reshape(height, width), "top_1_percent") == pytest.approx(expected)


def test_a_map_that_is_not_a_number_has_no_score() -> None:
    anomaly_map = np.zeros((30, 30), np.float32)
    anomaly_map[7, 7] = np.nan
    assert np.isnan(image_score(anomaly_map, "top_1_percent"))


def test_top1_of_a_tiny_map_is_its_maximum() -> None:
    assert image_score(np.array([[1.0, 2.0]], np.float32), "top_1_percent") == 2.0

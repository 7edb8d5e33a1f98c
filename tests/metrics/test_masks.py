"""Mask metrics against scikit-learn and a distance transform, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt
from sklearn.metrics import f1_score, jaccard_score

from toolkit.metrics import (
    MetricError,
    Undefined,
    boundary_iou,
    mask_dice,
    mask_iou,
    mask_values,
    mean_of_masks,
)
from toolkit.metrics.masks import boundary_band

EMPTY = Undefined("both masks are empty")


def rectangle(y0: int, y1: int, x0: int, x1: int, *, shape=(60, 80)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def blobs(seed: int, shape=(60, 80)) -> np.ndarray:
    """A random mask with blobs, holes, specks and regions at the border."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((8, 10)) < 0.4
    mask = np.kron(coarse, np.ones((8, 8), dtype=bool))[: shape[0], : shape[1]]
    return mask ^ (rng.random(shape) < 0.01)


def band_by_distance(mask: np.ndarray) -> np.ndarray:
    """Boundary band by its definition: chessboard distance to the outside is at most d."""
    d = max(1, round(0.02 * math.hypot(*mask.shape)))
    return mask & (distance_transform_cdt(np.pad(mask, 1), metric="chessboard")[1:-1, 1:-1] <= d)


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_references(seed):
    said, truth = blobs(seed), blobs(seed + 100)
    assert mask_iou(said, truth) == pytest.approx(jaccard_score(truth.ravel(), said.ravel()))
    assert mask_dice(said, truth) == pytest.approx(f1_score(truth.ravel(), said.ravel()))
    np.testing.assert_array_equal(boundary_band(truth), band_by_distance(truth))
    assert boundary_iou(said, truth) == pytest.approx(
        jaccard_score(band_by_distance(truth).ravel(), band_by_distance(said).ravel())
    )


@pytest.mark.parametrize("shape", [(900, 900), (10, 10), (1, 7), (300, 5)])
def test_band_at_other_sizes(shape):
    mask = np.random.default_rng(0).random(shape) < 0.999
    np.testing.assert_array_equal(boundary_band(mask), band_by_distance(mask))


@pytest.mark.parametrize(
    ("said", "truth", "iou", "dice", "boundary"),
    [
        # equal
        (rectangle(10, 40, 10, 40), rectangle(10, 40, 10, 40), 1.0, 1.0, 1.0),
        # apart
        (rectangle(0, 10, 0, 10), rectangle(30, 40, 30, 40), 0.0, 0.0, 0.0),
        # nothing said
        (rectangle(0, 0, 0, 0), rectangle(30, 40, 30, 40), 0.0, 0.0, 0.0),
        # a false alarm on a good image
        (rectangle(30, 40, 30, 40), rectangle(0, 0, 0, 0), 0.0, 0.0, 0.0),
        # nothing there, nothing said: no value
        (rectangle(0, 0, 0, 0), rectangle(0, 0, 0, 0), EMPTY, EMPTY, EMPTY),
        # half; the diagonal is 100, so the band is 2 wide: 10x10 has 64 in it, 10x20 104, both 44+8
        (rectangle(10, 20, 10, 20), rectangle(10, 20, 10, 30), 0.5, 2 / 3, 52 / 116),
        # one pixel of two
        (rectangle(0, 1, 0, 1), rectangle(0, 1, 0, 2), 0.5, 2 / 3, 0.5),
        # all of the image: the border is boundary
        (rectangle(0, 60, 0, 80), rectangle(0, 60, 0, 80), 1.0, 1.0, 1.0),
    ],
)
def test_by_hand(said, truth, iou, dice, boundary):
    assert mask_iou(said, truth) == iou
    assert mask_dice(said, truth) == dice
    assert boundary_iou(said, truth) == boundary


def test_full_mask_has_a_band_along_the_border_only():
    band = boundary_band(np.ones((60, 80), dtype=bool))
    assert band.sum() == 60 * 80 - 56 * 76


def test_means_leave_empty_pairs_out():
    half = (rectangle(10, 20, 10, 20), rectangle(10, 20, 10, 30))
    empty = (rectangle(0, 0, 0, 0), rectangle(0, 0, 0, 0))
    full = (rectangle(5, 9, 5, 9, shape=(20, 20)), rectangle(5, 9, 5, 9, shape=(20, 20)))
    ours = mean_of_masks([mask_values(*pair) for pair in (half, empty, full)])
    assert (ours.n_pairs, ours.n_empty) == (3, 1)
    assert ours.iou == 0.75
    assert ours.dice == pytest.approx(5 / 6)
    assert ours.boundary_iou == pytest.approx((52 / 116 + 1) / 2)


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([], "no masks"),
        ([(rectangle(0, 0, 0, 0), rectangle(0, 0, 0, 0))], "both masks are empty"),
    ],
)
def test_no_value_has_a_reason(pairs, reason):
    ours = mean_of_masks([mask_values(*pair) for pair in pairs])
    assert ours.iou == ours.dice == ours.boundary_iou == Undefined(reason)


@pytest.mark.parametrize(
    ("said", "truth"),
    [
        # other sizes
        (np.zeros((4, 4), dtype=bool), np.zeros((4, 5), dtype=bool)),
        # probabilities
        (np.zeros((4, 4)), np.zeros((4, 4), dtype=bool)),
        # 0/255 masks
        (np.zeros((4, 4), dtype=bool), np.zeros((4, 4), dtype=np.uint8)),
        # a stack
        (np.zeros((1, 4, 4), dtype=bool), np.zeros((1, 4, 4), dtype=bool)),
    ],
)
@pytest.mark.parametrize("metric", [mask_iou, mask_dice, boundary_iou])
def test_refuses(metric, said, truth):
    with pytest.raises(MetricError):
        metric(said, truth)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_invariants(one, other):
    said, truth = blobs(one), blobs(other)
    for metric in (mask_iou, mask_dice, boundary_iou):
        value = metric(said, truth)
        assert value == metric(truth, said)
        assert value == metric(said[::-1], truth[::-1])
        assert 0.0 <= value <= 1.0
    assert mask_iou(said, truth) <= mask_dice(said, truth)

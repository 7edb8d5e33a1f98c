"""The order of an epoch's images, and where the points of SMOTE may lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import ConfigError
from toolkit.imbalance.sampling import (
    balanced_by_smote,
    balanced_order,
    check_neighbors,
    shuffled_order,
    smote,
)

NAMES = ("good", "a", "b")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 2**31), st.integers(3, 12), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_new_points_lie_between_a_point_and_one_of_its_neighbors(
    seed: int, n: int, count: int
) -> None:
    points = torch.randn(n, 3, generator=_generator(seed), dtype=torch.float64)
    found = smote(points, count, num_neighbors=2, generator=_generator(seed)).numpy()
    assert found.shape == (count, 3)
    p = points.numpy()
    distances = np.linalg.norm(p[:, None] - p[None], axis=2)
    lines = [(i, j) for i in range(n) for j in np.argsort(distances[i])[1:3]]
    for new in found:
        # on a line: the two distances to its ends add up to its length
        off = [
            np.linalg.norm(new - p[i]) + np.linalg.norm(new - p[j]) - distances[i, j]
            for i, j in lines
        ]
        assert min(off) < 1e-9


def test_every_point_is_taken_before_any_is_taken_again() -> None:
    # two far pairs: a new point tells which pair its first point belongs to
    points = torch.tensor([[0.0], [1.0], [100.0], [101.0]])
    found = smote(points, 8, num_neighbors=1, generator=_generator(0))
    assert int((found < 50).sum()) == 4


def test_places_on_the_line_are_uniform() -> None:
    points = torch.tensor([[0.0], [1.0]])
    found = smote(points, 4000, num_neighbors=1, generator=_generator(0))
    # three standard deviations of the mean of 4000 uniform numbers
    assert float(found.mean()) == pytest.approx(0.5, abs=3 * (1 / 12 / 4000) ** 0.5)
    assert 0 <= float(found.min()) < 0.01
    assert 0.99 < float(found.max()) <= 1


def test_all_classes_are_filled_up_and_the_given_points_stay() -> None:
    labels = torch.tensor([0] * 9 + [1] * 4 + [2] * 3)
    points = torch.randn(16, 5, generator=_generator(1)) + labels[:, None] * 100
    all_points, all_labels = balanced_by_smote(
        points, labels, 3, num_neighbors=2, generator=_generator(0)
    )
    assert torch.bincount(all_labels).tolist() == [9, 9, 9]
    assert torch.equal(all_points[:16], points)
    # no point lies between classes
    assert torch.equal((all_points.mean(1) / 100).round().long(), all_labels)


@pytest.mark.parametrize(
    ("num_neighbors", "message"),
    [
        (3, "class b has 3 training images, so each has 2 neighbors; choose at most 2"),
        (0, "smote_num_neighbors=0: must be at least 1"),
    ],
)
def test_more_neighbors_than_images_are_refused(num_neighbors: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_neighbors(torch.tensor([9, 5, 3]), NAMES, num_neighbors)


def test_the_largest_class_needs_no_neighbors() -> None:
    check_neighbors(torch.tensor([3, 3, 3]), NAMES, 5)
    check_neighbors(torch.tensor([9, 5, 3]), NAMES, 2)
    with pytest.raises(ConfigError):  # one image fewer, and the smallest class has too few
        check_neighbors(torch.tensor([9, 5, 2]), NAMES, 2)


def test_balanced_order_draws_every_class_alike() -> None:
    labels = torch.tensor([0] * 90 + [1] * 6 + [2] * 4)
    order = balanced_order(labels, 3, _generator(0), count=6000)
    shares = torch.bincount(labels[order]).double() / 6000
    # three standard deviations of a share of 1/3 in 6000 draws
    assert torch.allclose(shares, torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.019)
    assert len(balanced_order(labels, 3, _generator(0))) == 100


def test_shuffled_order_shows_no_image_twice() -> None:
    labels = torch.tensor([0] * 9 + [1] * 3)
    assert sorted(shuffled_order(labels, _generator(0)).tolist()) == list(range(12))
    assert len(set(shuffled_order(labels, _generator(0), count=5).tolist())) == 5
    again = shuffled_order(labels, _generator(3))
    assert torch.equal(again, shuffled_order(labels, _generator(3)))

"""Class weights against hand-computed values and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from toolkit.imbalance.weights import (
    class_counts,
    effective_number_weights,
    inverse_frequency_weights,
)

COUNTS = st.lists(st.integers(1, 500), min_size=2, max_size=6)


def test_counts_of_every_class() -> None:
    assert class_counts(torch.tensor([0, 2, 2, 0, 2]), 4).tolist() == [2, 0, 3, 0]


@given(COUNTS)
def test_inverse_frequency_is_sklearns_balanced(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    found = inverse_frequency_weights(torch.tensor(counts))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_effective_number_by_hand() -> None:
    # beta 0.9: one image counts 1, two count 1.9, three count 2.71
    found = effective_number_weights(torch.tensor([1, 2, 3]), 0.9)
    raw = np.array([1 / 1, 1 / 1.9, 1 / 2.71])
    np.testing.assert_allclose(found.numpy(), raw * 3 / raw.sum(), rtol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.99, 0.9999])
def test_the_effective_number_is_a_sum_of_powers(beta: float) -> None:
    counts = [209, 12, 13]
    numbers = np.array([sum(beta**i for i in range(n)) for n in counts])
    expected = (1 / numbers) * 3 / (1 / numbers).sum()
    found = effective_number_weights(torch.tensor(counts), beta)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@given(COUNTS)
def test_the_limits_of_beta(counts: list[int]) -> None:
    tensor = torch.tensor(counts)
    assert torch.equal(effective_number_weights(tensor, 0.0), torch.ones(len(counts)))
    inverse = inverse_frequency_weights(tensor)
    near_one = effective_number_weights(tensor, 1 - 1e-9)
    torch.testing.assert_close(near_one, inverse * len(counts) / inverse.sum(), rtol=1e-4, atol=0)

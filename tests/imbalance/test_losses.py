"""Class weights and losses against hand-computed values and independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from toolkit.imbalance.losses import (
    balanced_softmax_logits,
    class_counts,
    effective_number_weights,
    focal_loss,
    inverse_frequency_weights,
    logit_shift,
)


def _random(seed: int, rows: int = 5, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(classes, (rows,), generator=generator)


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_focal_without_gamma_is_cross_entropy(seed: int) -> None:
    logits, labels = _random(seed)
    targets = F.one_hot(labels, 4).double()
    found = focal_loss(logits, targets, gamma=0.0)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels))


@pytest.mark.parametrize(("p", "gamma"), [(0.9, 2.0), (0.1, 2.0), (0.5, 1.0), (0.5, 0.5)])
def test_focal_by_hand(p: float, gamma: float) -> None:
    logits = torch.tensor([[math.log(p), math.log(1 - p)]], dtype=torch.float64)
    found = focal_loss(logits, torch.tensor([[1.0, 0.0]]), gamma=gamma)
    assert float(found) == pytest.approx(-((1 - p) ** gamma) * math.log(p))


@given(st.integers(0, 2**31), st.floats(0.5, 4))
@settings(max_examples=20, deadline=None)
def test_focal_of_two_classes_is_torchvisions(seed: int, gamma: float) -> None:
    # a softmax over (0, x) is a sigmoid of x; torchvision's alpha below 0 is off
    logits, labels = _random(seed, classes=2)
    x = logits[:, 1] - logits[:, 0]
    expected = sigmoid_focal_loss(x, labels.double(), alpha=-1, gamma=gamma, reduction="mean")
    found = focal_loss(logits, F.one_hot(labels, 2).double(), gamma=gamma)
    torch.testing.assert_close(found, expected)


def test_focal_has_a_gradient_where_everything_is_right() -> None:
    logits = torch.tensor([[60.0, 0.0]], requires_grad=True)
    torch.autograd.backward(focal_loss(logits, torch.tensor([[1.0, 0.0]]), gamma=0.5))
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_balanced_softmax_is_the_weighted_softmax_of_the_paper(seed: int) -> None:
    logits, labels = _random(seed)
    counts = np.array([209, 12, 13, 1])
    e = counts * np.exp(logits.numpy())
    expected = -np.log(e[np.arange(5), labels] / e.sum(axis=1)).mean()
    found = F.cross_entropy(balanced_softmax_logits(logits, torch.tensor(counts)), labels)
    assert float(found) == pytest.approx(expected)


def test_logit_shift_turns_a_posterior_into_that_of_equal_priors() -> None:
    # Bayes: with tau 1 the shares of the training part cancel out, likelihoods remain
    counts = torch.tensor([90, 10])
    likelihoods = np.array([0.2, 0.6])
    posterior = likelihoods * np.array([0.9, 0.1])
    logits = torch.tensor(np.log(posterior / posterior.sum()))
    adjusted = (logits + logit_shift(counts, 1.0)).softmax(0).numpy()
    np.testing.assert_allclose(adjusted, likelihoods / likelihoods.sum(), rtol=1e-6)
    assert torch.equal(logit_shift(counts, 0.0), torch.zeros(2))


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

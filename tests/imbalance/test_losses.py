"""Losses against hand-computed values and independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from toolkit.imbalance.losses import balanced_softmax_logits, focal_loss, logit_shift


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

"""Whitening per layer."""

from __future__ import annotations

import torch

from toolkit.methods.features.whitening import fit_whitening


def test_each_layer_becomes_white_with_equal_weight() -> None:
    torch.manual_seed(0)
    # Two layers of 3 and 5 channels, correlated within, of very different loudness.
    loud = torch.randn(5000, 3) @ torch.randn(3, 3) * 100 + 7
    quiet = torch.randn(5000, 5) @ torch.randn(5, 5) * 0.01
    features = torch.cat([loud, quiet], dim=1)
    white = features @ fit_whitening(features, (3, 5), shrinkage=0.0, seed=0)
    torch.testing.assert_close(torch.cov(white[:, :3].T), torch.eye(3) / 3, atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(white[:, 3:].T), torch.eye(5) / 5, atol=1e-3, rtol=0)


def test_layers_are_not_mixed() -> None:
    features = torch.randn(100, 4)
    whitening = fit_whitening(features, (1, 3), shrinkage=0.01, seed=0)
    assert float(whitening[0, 1:].abs().max()) == 0
    assert float(whitening[1:, 0].abs().max()) == 0


def test_constant_images_give_finite_features() -> None:
    features = torch.ones(50, 4)
    assert torch.isfinite(features @ fit_whitening(features, (2, 2), shrinkage=0.01, seed=0)).all()


def test_shrinkage_bounds_directions_without_variance() -> None:
    features = torch.randn(1000, 2)
    features[:, 1] = 0
    whitening = fit_whitening(features, (2,), shrinkage=0.01, seed=0)
    # Variances 1 and 0, mean 0.5: the dead direction is divided by √0.005, and by √2 channels.
    assert float(torch.linalg.matrix_norm(whitening, 2)) < 1.05 / 0.005**0.5 / 2**0.5

"""Whitening: a linear map after which good patches vary alike in every direction.

A distance then counts a deviation by how unusual it is among good patches (Mahalanobis) and not by
how large the values of a channel happen to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 100_000
_FLOOR = 1e-6
"""Smallest variance that is divided by, so that constant images give finite features."""


@dataclass(frozen=True)
class Whitener:
    """Centres and whitens features, so that each has a variance of about 1.

    Attributes:
        mean: float32 (channels,).
        whitening: float32 (channels, channels).
    """

    mean: Tensor
    whitening: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return whitened features, float32 (n, channels)."""
        return (features.float() - self.mean) @ self.whitening

    @classmethod
    def fit(
        cls, features: Tensor, channels: Sequence[int], *, shrinkage: float, seed: int
    ) -> Whitener:
        """Fit a whitener; see `fit_whitening`."""
        whitening = fit_whitening(features, channels, shrinkage=shrinkage, seed=seed)
        # That map divides by the root of the channels for distances; here each has variance 1.
        return cls(features.mean(dim=0), whitening * features.shape[1] ** 0.5)


def fit_whitening(
    features: Tensor, channels: Sequence[int], *, shrinkage: float, seed: int
) -> Tensor:
    """Fit a whitening map per layer; layers stay uncorrelated with each other and weigh the same.

    Per layer with covariance U diag(v) Uᵀ the map is U diag(v + shrinkage · mean(v))^(-1/2),
    divided by the root of the layer's number of channels.

    Args:
        features: float tensor (n, d), n at least 2.
        channels: channels of each layer, in the order of the columns; they add up to d.
        shrinkage: keeps directions without variance from being blown up; 0.01 is mild.
        seed: of the rows that are drawn, where there are more than enough.

    Returns:
        float32 tensor (d, d), block-diagonal; whitened features are `features @ map`.
    """
    import torch

    rows = features
    if len(features) > _ROWS:
        generator = torch.Generator().manual_seed(seed)
        # Drawn with repetition: a permutation of all rows would cost more than it gains.
        rows = features[torch.randint(len(features), (_ROWS,), generator=generator)]
    blocks = []
    for layer in torch.split(rows, list(channels), dim=1):
        covariance = torch.cov(layer.float().T).reshape(layer.shape[1], layer.shape[1])
        variances, directions = torch.linalg.eigh(covariance.double())
        variances = variances.clamp_min(0)
        scale = (variances + shrinkage * variances.mean()).clamp_min(_FLOOR).rsqrt()
        blocks.append(directions * scale / layer.shape[1] ** 0.5)
    whitening: Tensor = torch.block_diag(*blocks).float()  # type: ignore[no-untyped-call]
    return whitening

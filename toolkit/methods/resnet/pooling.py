"""Features from several depths of a network: pooled maps of its layers, standardised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from toolkit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROBE_SIDE = 64
# A feature that hardly varies in training says nothing, and must not be blown up.
_SMALLEST_DEVIATION = 1e-4


class PooledLayers(nn.Module):
    """A network cut off behind its last wanted layer; maps become their averages and maxima.

    The average tells how much of an image shows something, the maximum whether any of it does,
    which is what a small defect comes down to.

    Args:
        whole: the network.
        layers: names of its modules, each of which gives a map (B, C, h, w).
        network: the network's name, for error messages.

    Attributes:
        maps: the cut network.
        features: length of a feature vector, twice the sum of the layers' channels.

    Raises:
        ConfigError: no such module, or its output is no map.
    """

    def __init__(self, whole: nn.Module, layers: Sequence[str], *, network: str) -> None:
        super().__init__()
        from timm.models import create_feature_extractor

        known = [name for name, _ in whole.named_modules() if name]
        for layer in layers:
            if layer not in known:
                near = did_you_mean(layer, known)
                hint = near if "did you mean" in near else "; such as layer4, or blocks.6"
                raise ConfigError(f"pooled_layers={layer}: {network} has no such module{hint}")
        self.layers = tuple(layers)
        self.maps: nn.Module = create_feature_extractor(whole.eval(), list(layers))
        with torch.no_grad():
            found = self.maps(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))
        for layer in layers:
            if found[layer].dim() != 4:
                raise ConfigError(f"pooled_layers={layer}: its output is no map; name another")
        self.features = 2 * sum(found[layer].shape[1] for layer in layers)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to features (B, F)."""
        found = self.maps(images)
        pooled = []
        for layer in self.layers:
            pooled += [found[layer].mean((2, 3)), found[layer].amax((2, 3))]
        return torch.cat(pooled, dim=1)


class Standardise(nn.Module):
    """Subtracts a mean and divides by a standard deviation that were measured once.

    Args:
        features: length of a feature vector.
    """

    mean: Tensor
    deviation: Tensor
    measured: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("devnet", torch.ones(features))
        self.register_buffer("measured", torch.zeros((), dtype=torch.bool))

    def measure(self, features: Tensor) -> None:
        """Take mean and deviation from features (n, F) of the training part."""
        deviation = features.std(dim=0, correction=0)
        self.mean.copy_(features.mean(dim=0))
        self.deviation.copy_(torch.where(deviation > _SMALLEST_DEVIATION, deviation, 1.0))
        self.measured.fill_(True)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, F) to standardised ones."""
        standard: Tensor = (features - self.mean) / self.deviation
        return standard

"""What scorers do alike before they learn: features of good images, centred and whitened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.data.types import Sample
from toolkit.methods.features.cache import FeatureCache
from toolkit.methods.features.whitening import fit_whitening
from toolkit.progress import track

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.methods.features.extractor import FeatureExtractor


@dataclass(frozen=True)
class Whitened:
    """Centres and whitens features, so that each has about variance 1.

    Attributes:
        mean: float32 (channels,).
        whitening: float32 (channels, channels).
    """

    mean: Tensor
    whitening: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return features, any float (n, channels), as float32 whitened ones."""
        return (features.float() - self.mean) @ self.whitening

    def state(self) -> dict[str, Tensor]:
        """Return what has to be kept, by the names of its fields."""
        return {"mean": self.mean, "whitening": self.whitening}


def good_features(
    good: Sequence[Sample],
    extractor: FeatureExtractor,
    cache: FeatureCache,
    *,
    most: int,
    shrinkage: float,
    seed: int,
) -> tuple[list[Tensor], Whitened]:
    """Return the features of good images, and what whitens them.

    Args:
        good: images.
        extractor: of the features.
        cache: where they may lie already.
        most: images that are taken at most; of more, an even draw.
        shrinkage: of the whitening.
        seed: of both draws.

    Returns:
        One float16 tensor (cells, channels) per image, and the map for all of them.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(good), generator=generator)[:most].tolist()
    kept = [cache.get(good[i]) for i in track(sorted(drawn), "features")]
    rows = torch.cat(kept).float()
    whitening = fit_whitening(rows, extractor.layer_channels, shrinkage=shrinkage, seed=seed)
    # The whitening divides by the root of the channels for distances; here each has variance 1.
    return kept, Whitened(rows.mean(dim=0), whitening * extractor.channels**0.5)

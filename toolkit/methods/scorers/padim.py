"""PaDiM: Mahalanobis distance of each place's features from those of good images there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolkit.config import setting
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.methods.base import Labels
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.features.scorer import FeatureScorer, patch_features
from toolkit.methods.features.settings import FeatureSettings, check_minimum
from toolkit.progress import track
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

_FLOOR = 1e-6
"""Variance that is always added: places without any give finite distances."""
_CONSTANT = 1e-8
"""Mean variance, as a share of the mean square, up to which images count as all the same."""


@dataclass(frozen=True)
class PaDiMSettings(FeatureSettings):
    """Settings of PaDiM."""

    n_features: int = setting(100, "channels that are kept, drawn at random (paper: 100); 0: all")
    shrinkage: float = setting(0.01, "share of the mean variance that is added to each variance")

    def __post_init__(self) -> None:
        """Reject values that nothing can be learned with.

        Raises:
            ValueError: the message names the key.
        """
        super().__post_init__()
        check_minimum(self, n_features=0, shrinkage=0)


class PaDiM(FeatureScorer[PaDiMSettings]):
    """PaDiM (Defard et al., "PaDiM: a Patch Distribution Modeling Framework", ICPR 2020).

    It keeps mean and covariance of good features at each place, so the objects have to lie alike.
    """

    name: ClassVar[str] = "padim"
    Settings: ClassVar[type] = PaDiMSettings
    labels: ClassVar[Labels] = "none"
    score_description: ClassVar[str] = (
        "largest Mahalanobis distance from good features at its place"
    )
    min_good_images: ClassVar[int] = 2

    def learn(
        self, split: Split, good: Sequence[Sample], extractor: FeatureExtractor, run: Run
    ) -> Gaussians:
        """Measure mean and covariance at each place; one image in memory at a time."""
        import torch

        generator = torch.Generator().manual_seed(run.seed)
        count = self.settings.n_features or extractor.channels
        channels = torch.randperm(extractor.channels, generator=generator)[:count].sort().values
        moments = _Moments()
        for sample in track(good, "features"):
            moments.add(patch_features(sample, extractor).cpu()[:, channels])
        mean, covariance = moments.mean_and_covariance()
        if _is_constant(covariance, mean):
            run.log("features of the good images hardly vary: are they all the same image?")
            covariance = _assumed_covariance(covariance, mean)
        whitening = _whitening(covariance, self.settings.shrinkage)
        return Gaussians(channels, mean.float(), whitening.float())

    def restore(self, state: Mapping[str, Tensor], extractor: FeatureExtractor) -> Gaussians:
        """Make the Gaussians again from their saved state."""
        return Gaussians(state["channels"], state["mean"], state["whitening"])


@dataclass(frozen=True)
class Gaussians:
    """A Gaussian per place; the Mahalanobis distance from it is the score.

    Attributes:
        channels: those that are kept, int64 (c,).
        mean: of them at each place, float32 (places, c).
        whitening: at each place, float32 (places, c, c); see `_whitening`.
    """

    channels: Tensor
    mean: Tensor
    whitening: Tensor

    def __call__(self, patches: Tensor) -> tuple[Tensor, None]:
        """Return the distances of the places, (cells,); see `Head`."""
        offset = patches[:, self.channels] - self.mean
        return (offset[:, None] @ self.whitening)[:, 0].norm(dim=1), None

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that are saved."""
        return {"channels": self.channels, "mean": self.mean, "whitening": self.whitening}

    def networks(self) -> list[nn.Module]:
        """Return no networks."""
        return []


class _Moments:
    """Running sums of features and of their products, about the first image's features."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, features: Tensor) -> None:
        """Take in one image, float32 tensor (places, channels)."""
        import torch

        if not self._count:
            self._origin = features.double()  # near the mean, so that squares keep their digits
            self._sum = torch.zeros_like(self._origin)
            places, channels = features.shape
            self._squares = torch.zeros(places, channels, channels)
        offset = features.double() - self._origin
        self._sum += offset
        small = offset.float()
        self._squares.baddbmm_(small[:, :, None], small[:, None, :])
        self._count += 1

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Return float64 tensors (places, channels) and (places, channels, channels)."""
        mean = self._sum / self._count
        outer = mean[:, :, None] * mean[:, None, :]
        covariance = (self._squares.double() - self._count * outer) / (self._count - 1)
        return self._origin + mean, covariance


def _is_constant(covariance: Tensor, mean: Tensor) -> bool:
    """Whether variances are nothing but rounding beside the features' squares."""
    variance = covariance.diagonal(dim1=1, dim2=2).clamp_min(0).mean()
    return bool(variance <= _CONSTANT * mean.square().mean())


def _assumed_covariance(covariance: Tensor, mean: Tensor) -> Tensor:
    """Return the variances that are assumed where none was seen: a tenth of the features' size.

    Divided by the rounding that is left, any other image would be thousands of deviations away.
    """
    import torch

    variance = 0.01 * mean.square().mean() + _FLOOR
    return variance * torch.eye(covariance.shape[1]).to(covariance).expand_as(covariance)


def _whitening(covariance: Tensor, shrinkage: float) -> Tensor:
    """Return one matrix W per place with W Wᵀ the inverse of its regularised covariance.

    The paper adds 0.01 to each variance, which means little for features of another scale; a share
    of the mean variance takes its place.
    """
    import torch

    variances, directions = torch.linalg.eigh(covariance)
    added = shrinkage * variances.clamp_min(0).mean() + _FLOOR
    whitening: Tensor = directions * (variances.clamp_min(0) + added).rsqrt()[:, None, :]
    return whitening

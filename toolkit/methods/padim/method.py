"""PaDiM: Mahalanobis distance of each place's features from those of good images there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolkit.config import setting
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.methods.base import Labels, Method
from toolkit.methods.features.scorer import (
    answer,
    build_extractor,
    features_of,
    good_images,
    load_state,
    save_state,
    training_extractor,
)
from toolkit.methods.features.settings import FeatureSettings, at_least
from toolkit.methods.size import note_parameters
from toolkit.prediction import Prediction
from toolkit.progress import track
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from toolkit.methods.base import Exported

_STATE = ("channels", "mean", "whitening")
_FLOOR = 1e-6
"""Variance that is always added: places without any give finite distances."""
_STILL = 1e-8
"""Mean variance, as a share of the mean square, up to which images count as all the same."""


@dataclass(frozen=True)
class PaDiMSettings(FeatureSettings):
    """Settings of PaDiM."""

    channels: int = setting(100, "channels that are kept, drawn at random (paper: 100); 0: all")
    shrinkage: float = setting(0.01, "share of the mean variance that is added to each variance")

    def __post_init__(self) -> None:
        """Reject values that nothing can be learnt with.

        Raises:
            ValueError: the message names the key.
        """
        super().__post_init__()
        at_least(self, channels=0, shrinkage=0)


class PaDiM(Method[PaDiMSettings]):
    """PaDiM (Defard et al., "PaDiM: a Patch Distribution Modeling Framework", ICPR 2020).

    It keeps mean and covariance of good features at each place, so the objects have to lie alike.
    """

    name: ClassVar[str] = "padim"
    Settings: ClassVar[type] = PaDiMSettings
    labels: ClassVar[Labels] = "none"
    score_description: ClassVar[str] = (
        "largest Mahalanobis distance from good features at its place"
    )
    min_defects: ClassVar[int] = 0

    def fit(self, split: Split, run: Run) -> None:
        """Measure mean and covariance at each place; one image in memory at a time.

        Raises:
            DataError: fewer than two good images.
        """
        import torch

        good = good_images(split, self.name, least=2)
        extractor = training_extractor(self.settings, run)
        note_parameters(run, extractor.backbone.network)
        generator = torch.Generator().manual_seed(run.seed)
        count = self.settings.channels or extractor.channels
        chosen = torch.randperm(extractor.channels, generator=generator)[:count].sort().values
        moments = _Moments()
        for sample in track(good, "features"):
            moments.add(features_of(sample, extractor).cpu()[:, chosen])
        mean, covariance = moments.mean_and_covariance()
        still = _is_still(covariance, mean)
        if still:
            run.log("features of the good images hardly vary: are they all the same image?")
            covariance = _assumed(covariance, mean)
        whitening = _whitening(covariance, self.settings.shrinkage)
        state = {"channels": chosen, "mean": mean.float(), "whitening": whitening.float()}
        save_state(run, state, extractor)

    def predict(self, samples: Sequence[Sample], run: Run) -> Iterator[Prediction]:
        """Yield one prediction with a anomaly map per sample; see `Method.predict`.

        Raises:
            WeightsError: nothing was learnt here, or with another backbone.
        """
        extractor = build_extractor(self.settings, run)
        state = load_state(run, _STATE, extractor)
        for sample in samples:
            distance = mahalanobis(features_of(sample, extractor), **state)
            yield answer(sample, distance.view(extractor.grid_hw).cpu().numpy(), self.settings)

    def export(self, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write `model.onnx`: feature extractor and distances; see `export_scorer`.

        Raises:
            MissingExtraError: ONNX is not installed.
            WeightsError: nothing was learnt here, or with another backbone.
        """
        from toolkit.methods.features.export import export_scorer
        from toolkit.methods.padim.export import GaussiansHead

        extractor = build_extractor(self.settings, run, device="cpu")
        head = GaussiansHead(load_state(run, _STATE, extractor))
        predictions = self.predict(samples, run)
        return export_scorer(extractor, head, self.settings, out, samples, predictions)


def mahalanobis(features: Tensor, *, channels: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Return how far features are from the good ones at their places.

    Args:
        features: float32 (places, all channels).
        channels: those that count, int64 (c,).
        mean: of them at each place, float32 (places, c).
        whitening: at each place, float32 (places, c, c); see `_whitening`.

    Returns:
        float32 (places,).
    """
    offset = features[:, channels] - mean
    distances: Tensor = (offset[:, None] @ whitening)[:, 0].norm(dim=1)
    return distances


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


def _is_still(covariance: Tensor, mean: Tensor) -> bool:
    """Whether variances are nothing but rounding beside the features' squares."""
    variance = covariance.diagonal(dim1=1, dim2=2).clamp_min(0).mean()
    return bool(variance <= _STILL * mean.square().mean())


def _assumed(covariance: Tensor, mean: Tensor) -> Tensor:
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

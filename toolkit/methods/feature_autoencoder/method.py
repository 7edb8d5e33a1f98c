"""The student: a small convolutional autoencoder of good features; its error is the score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolkit.config import setting
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.methods.base import Labels, Method
from toolkit.methods.features.cache import FeatureCache
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
from toolkit.methods.features.training import Whitened, good_features
from toolkit.methods.size import note_parameters
from toolkit.prediction import Prediction
from toolkit.progress import progress
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from toolkit.methods.base import Exported
    from toolkit.methods.features.extractor import FeatureExtractor

_BATCH = 8


@dataclass(frozen=True)
class FeatureAutoencoderSettings(FeatureSettings):
    """Settings of the student."""

    width: int = setting(64, "channels of the hidden layers")
    bottleneck: int = setting(24, "channels of the narrowest layer, at half the resolution")
    epochs: int = setting(15, "times that each good image is seen")
    lr: float = setting(2e-3, "learning rate at the start; it falls to zero along a cosine")
    whitening: float = setting(0.01, "shrinkage of the whitening of each layer's features")
    max_images: int = setting(2000, "good images held in memory at most; more are drawn evenly")

    def __post_init__(self) -> None:
        """Reject values that nothing can be learnt with.

        Raises:
            ValueError: the message names the key.
        """
        super().__post_init__()
        at_least(self, width=1, bottleneck=1, epochs=0, lr=0, whitening=0, max_images=2)


class FeatureAutoencoder(Method[FeatureAutoencoderSettings]):
    """A feature autoencoder: it rebuilds whitened features of good images and fails at others.

    The autoencoder is the student of the frozen backbone, as in EfficientAD (Batzner et al., WACV
    2024), whose second student it resembles.
    """

    name: ClassVar[str] = "feature-autoencoder"
    Settings: ClassVar[type] = FeatureAutoencoderSettings
    labels: ClassVar[Labels] = "none"
    score_description: ClassVar[str] = "largest error of rebuilding its features"
    min_defects: ClassVar[int] = 0

    def fit(self, split: Split, run: Run) -> None:
        """Train the autoencoder on good images.

        Raises:
            DataError: fewer than two good images.
        """
        import torch

        settings = self.settings
        good = good_images(split, self.name, least=2)
        extractor = training_extractor(settings, run)
        cache = FeatureCache(extractor)
        kept, whitened = good_features(
            good,
            extractor,
            cache,
            most=settings.max_images,
            shrinkage=settings.whitening,
            seed=run.seed,
        )
        run.update_metadata(features_cached=cache.hits)
        grids = torch.stack([_grid(whitened(one), extractor.grid_hw) for one in kept])
        network = _train(grids, settings, run)
        note_parameters(run, extractor.backbone.network, network)
        state = {f"network.{k}": v for k, v in network.state_dict().items()}
        save_state(run, {**whitened.state(), **state}, extractor)

    def predict(self, samples: Sequence[Sample], run: Run) -> Iterator[Prediction]:
        """Yield one prediction with a anomaly map per sample; see `Method.predict`.

        Raises:
            WeightsError: nothing was learnt here, or with another backbone.
        """
        import torch

        extractor = build_extractor(self.settings, run)
        whitened, network = self._load(run, extractor)
        for sample in samples:
            with torch.inference_mode():
                rows = whitened(features_of(sample, extractor))
                error = rebuilding_error(network, rows, extractor.grid_hw)
            yield answer(sample, error.cpu().numpy(), self.settings)

    def export(self, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write `model.onnx`: feature extractor and student; see `export_scorer`.

        Raises:
            MissingExtraError: ONNX is not installed.
            WeightsError: nothing was learnt here, or with another backbone.
        """
        from toolkit.methods.feature_autoencoder.export import FeatureAutoencoderHead
        from toolkit.methods.features.export import export_scorer

        extractor = build_extractor(self.settings, run, device="cpu")
        whitened, network = self._load(run, extractor)
        head = FeatureAutoencoderHead(whitened, network, extractor.grid_hw)
        predictions = self.predict(samples, run)
        return export_scorer(extractor, head, self.settings, out, samples, predictions)

    def _load(self, run: Run, extractor: FeatureExtractor) -> tuple[Whitened, nn.Module]:
        network = _network(extractor.channels, self.settings).to(extractor.device).eval()
        names = [f"network.{k}" for k in network.state_dict()]
        state = load_state(run, ["mean", "whitening", *names], extractor)
        network.load_state_dict({k.removeprefix("network."): state[k] for k in names})
        return Whitened(state["mean"], state["whitening"]), network


def rebuilding_error(network: nn.Module, rows: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Return how badly the network rebuilds whitened features, per cell.

    Args:
        network: the student.
        rows: float32 (cells, channels).
        grid_hw: rows and columns of cells.

    Returns:
        Root mean squares, float32 of the grid's shape.
    """
    grid = _grid(rows, grid_hw)[None]
    error: Tensor = (_rebuilt(network, grid) - grid).square().mean(dim=1)[0].sqrt()
    return error


def _grid(rows: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    return rows.T.reshape(-1, *grid_hw)


def _rebuilt(network: nn.Module, grids: Tensor) -> Tensor:
    # Halving and doubling an odd side gives one row too many.
    rebuilt: Tensor = network(grids)[..., : grids.shape[2], : grids.shape[3]]
    return rebuilt


def _network(channels: int, settings: FeatureAutoencoderSettings) -> nn.Module:
    from torch import nn

    width, narrow = settings.width, settings.bottleneck
    return nn.Sequential(
        nn.Conv2d(channels, width, 1), nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(width, narrow, 1), nn.ReLU(),
        nn.ConvTranspose2d(narrow, width, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(width, channels, 1),
    )  # fmt: skip


def _train(grids: Tensor, settings: FeatureAutoencoderSettings, run: Run) -> nn.Module:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        network = _network(grids.shape[1], settings).to(run.device)
    generator = torch.Generator().manual_seed(run.seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr)
    steps = settings.epochs * -(-len(grids) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    with progress("feature-autoencoder", settings.epochs) as bar:
        for epoch in range(settings.epochs):
            losses = []
            order = torch.randperm(len(grids), generator=generator)
            for batch in torch.split(order, _BATCH):
                wanted = grids[batch].to(run.device)
                loss = (_rebuilt(network, wanted) - wanted).square().mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
            run.add_result({"epoch": epoch + 1, "loss": sum(losses) / len(losses)})
            bar.advance(loss=losses[-1])
    return network

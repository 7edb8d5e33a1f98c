"""Feature autoencoder: a small network rebuilds features of good images; its error is the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolkit.config import setting
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.methods.base import Labels
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.features.scorer import FeatureCache, FeatureScorer, whitened_features
from toolkit.methods.features.settings import FeatureSettings, check_minimum
from toolkit.methods.features.whitening import Whitener
from toolkit.progress import progress
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

_BATCH = 8


@dataclass(frozen=True)
class FeatureAutoencoderSettings(FeatureSettings):
    """Settings of the feature autoencoder."""

    width: int = setting(64, "channels of the hidden layers")
    bottleneck: int = setting(24, "channels of the narrowest layer, at half the resolution")
    epochs: int = setting(15, "passes over the good images")
    lr: float = setting(
        2e-3, "learning rate at the start; it falls to zero along a cosine", advanced=True
    )
    whitening: float = setting(
        0.01, "shrinkage of the whitening of each layer's features", advanced=True
    )
    max_images: int = setting(
        2000, "good images held in memory at most; more are drawn evenly", advanced=True
    )

    def __post_init__(self) -> None:
        """Reject values that nothing can be learned with.

        Raises:
            ValueError: the message names the key.
        """
        super().__post_init__()
        check_minimum(self, width=1, bottleneck=1, epochs=0, lr=0, whitening=0, max_images=2)


class FeatureAutoencoder(FeatureScorer[FeatureAutoencoderSettings]):
    """A feature autoencoder: it rebuilds whitened features of good images and fails at others.

    It resembles the autoencoder of EfficientAD (Batzner et al., WACV 2024).
    """

    name: ClassVar[str] = "feature-autoencoder"
    Settings: ClassVar[type] = FeatureAutoencoderSettings
    labels: ClassVar[Labels] = "none"
    score_description: ClassVar[str] = "largest error of rebuilding its features"
    min_good_images: ClassVar[int] = 2

    def learn(
        self, split: Split, good: Sequence[Sample], extractor: FeatureExtractor, run: Run
    ) -> RebuildingError:
        """Train the autoencoder on good images."""
        import torch

        settings = self.settings
        features, whitener = whitened_features(
            good,
            FeatureCache(extractor),
            max_images=settings.max_images,
            shrinkage=settings.whitening,
            seed=run.seed,
        )
        grids = torch.stack([_grid(one, extractor.grid_hw) for one in features])
        network = _train(grids, settings, run)
        return RebuildingError(whitener, network, extractor.grid_hw)

    def restore(self, state: Mapping[str, Tensor], extractor: FeatureExtractor) -> RebuildingError:
        """Make whitener and network again from their saved state."""
        network = _network(extractor.channels, self.settings).to(extractor.device)
        network.load_state_dict(
            {key: state[f"network.{key}"] for key in network.state_dict()}, strict=True
        )
        whitener = Whitener(state["mean"], state["whitening"])
        return RebuildingError(whitener, network.eval().requires_grad_(False), extractor.grid_hw)


@dataclass(frozen=True)
class RebuildingError:
    """The root mean square by which the autoencoder fails to rebuild whitened features.

    Attributes:
        whitener: centres and whitens features.
        network: the autoencoder.
        grid_hw: rows and columns of cells.
    """

    whitener: Whitener
    network: nn.Module
    grid_hw: tuple[int, int]

    def __call__(self, patches: Tensor) -> tuple[Tensor, None]:
        """Return the errors of the cells, (cells,); see `Head`."""
        grid = _grid(self.whitener(patches), self.grid_hw)[None]
        error = (_rebuilt(self.network, grid) - grid).square().mean(dim=1)
        return error.sqrt().flatten(), None

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that are saved."""
        network = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        return {"mean": self.whitener.mean, "whitening": self.whitener.whitening, **network}

    def networks(self) -> list[nn.Module]:
        """Return the autoencoder."""
        return [self.network]


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

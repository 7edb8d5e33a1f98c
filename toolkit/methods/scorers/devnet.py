"""DevNet on frozen features: all good images and few labelled defects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from toolkit.config import setting
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import DataError
from toolkit.methods.base import Labels
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.features.scorer import FeatureCache, FeatureScorer, whitened_features
from toolkit.methods.features.settings import (
    FeatureSettings,
    check_fraction,
    check_minimum,
)
from toolkit.methods.features.synthetic_defects import (
    make_synthetic_defects,
    wants_synthetic_defects,
)
from toolkit.methods.features.whitening import Whitener
from toolkit.progress import progress
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

_BATCH = 16  # half of it defective, as in the paper


@dataclass(frozen=True)
class DevNetSettings(FeatureSettings):
    """Settings of DevNet."""

    hidden: int = setting(
        64, "width of the hidden layer that scores a patch; 0: none", advanced=True
    )
    topk_fraction: float = setting(0.02, "fraction of patches whose mean is the image's score")
    margin: float = setting(
        5.0, "deviations by which a defect has to stand out (paper: 5)", advanced=True
    )
    steps: int = setting(400, "steps of training, each on 8 good and 8 defective images")
    lr: float = setting(1e-3, "learning rate", advanced=True)
    weight_decay: float = setting(0.01, "weight decay", advanced=True)
    whitening: float = setting(
        0.01, "shrinkage of the whitening of each layer's features", advanced=True
    )
    synthetic_defects: Literal["auto", "always", "never"] = setting(
        "auto", "make defects (CutPaste, Perlin): where none is labelled, always, or never"
    )
    synthetic_defects_count: int = setting(64, "number of synthetic defects", advanced=True)
    max_images: int = setting(
        2000, "good images held in memory at most; more are drawn evenly", advanced=True
    )

    def __post_init__(self) -> None:
        """Reject values that nothing can be learned with.

        Raises:
            ValueError: the message names the key.
        """
        super().__post_init__()
        if self.image_score != "max":
            raise ValueError(
                f"image_score={self.image_score}: devnet scores an image by the mean of its "
                "highest patches, as in training; set --topk-fraction"
            )
        check_fraction(self, "topk_fraction")
        check_minimum(self, hidden=0, steps=0, lr=0, weight_decay=0, whitening=0)
        check_minimum(self, synthetic_defects_count=1, max_images=1)


class DevNet(FeatureScorer[DevNetSettings]):
    """DevNet (Pang et al., "Explainable Deep Few-shot Anomaly Detection", 2021), frozen features.

    It learns a score of patches that stays near a normal prior on good images and exceeds it by a
    margin on the few labelled defects.
    """

    name: ClassVar[str] = "devnet"
    Settings: ClassVar[type] = DevNetSettings
    labels: ClassVar[Labels] = "image"
    score_description: ClassVar[str] = (
        "mean of the highest patch scores, in deviations of a normal prior"
    )

    def learn(
        self, split: Split, good: Sequence[Sample], extractor: FeatureExtractor, run: Run
    ) -> DevNetHead:
        """Train on all good images and the labelled defects; synthetic ones where there are none.

        Nothing is chosen on the validation part: the number of steps is fixed.

        Raises:
            DataError: no defects, and no synthetic ones wanted.
        """
        settings = self.settings
        cache = FeatureCache(extractor)
        normal, whitener = whitened_features(
            good,
            cache,
            max_images=settings.max_images,
            shrinkage=settings.whitening,
            seed=run.seed,
        )
        defective = [cache.get(s) for s in split.train if s.is_defect]
        if wants_synthetic_defects(settings.synthetic_defects, defective):
            count = settings.synthetic_defects_count
            made = make_synthetic_defects(good, count, seed=run.seed)
            defective += [extractor(image).cpu() for image, _ in made]
            run.update_metadata(synthetic_defects=count)
        if not defective:
            raise DataError(
                f"{split.dataset.root}: no defect to learn from; use the protocol supervised, or "
                "--synthetic-defects auto"
            )
        network = self._train(normal, [whitener(one) for one in defective], run)
        return DevNetHead(whitener, network, settings.topk_fraction)

    def restore(self, state: Mapping[str, Tensor], extractor: FeatureExtractor) -> DevNetHead:
        """Make whitener and network again from their saved state."""
        network = _network(extractor.channels, self.settings.hidden).to(extractor.device)
        network.load_state_dict({key: state[f"scorer.{key}"] for key in network.state_dict()})
        whitener = Whitener(state["mean"], state["whitening"])
        return DevNetHead(
            whitener, network.eval().requires_grad_(False), self.settings.topk_fraction
        )

    def _train(self, normal: list[Tensor], defective: list[Tensor], run: Run) -> nn.Module:
        import torch

        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            scorer = _network(normal[0].shape[1], settings.hidden).to(run.device)
        generator = torch.Generator().manual_seed(run.seed)
        optimizer = torch.optim.AdamW(
            scorer.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        is_defect = torch.arange(_BATCH, device=run.device) >= _BATCH // 2

        def drawn(items: list[Tensor]) -> list[Tensor]:
            chosen = torch.randint(len(items), (_BATCH // 2,), generator=generator)
            return [items[int(i)] for i in chosen]

        every = max(settings.steps // 20, 1)
        with progress("devnet", settings.steps) as bar:
            for step in range(1, settings.steps + 1):
                batch = torch.stack([*drawn(normal), *drawn(defective)]).to(run.device)
                scores = image_scores(scorer(batch)[..., 0], settings.topk_fraction)
                loss = deviation_loss(scores, is_defect, settings.margin)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if step % every == 0:
                    run.add_result({"epoch": step, "loss": float(loss.detach())})
                bar.advance()
        return scorer


@dataclass(frozen=True)
class DevNetHead:
    """A learned score of patches; an image scores the mean of its highest patches.

    Attributes:
        whitener: centres and whitens features.
        network: from whitened features to scores.
        topk_fraction: fraction of the patches whose mean is the image's score.
    """

    whitener: Whitener
    network: nn.Module
    topk_fraction: float

    def __call__(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores of the cells, (cells,), and of the image, (1,); see `Head`."""
        scores = self.network(self.whitener(patches))[:, 0]
        return scores, image_scores(scores[None], self.topk_fraction)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that are saved."""
        network = {f"scorer.{key}": value for key, value in self.network.state_dict().items()}
        return {"mean": self.whitener.mean, "whitening": self.whitener.whitening, **network}

    def networks(self) -> list[nn.Module]:
        """Return the network that scores patches."""
        return [self.network]


def _network(channels: int, hidden: int) -> nn.Module:
    """Return a network from patch features (…, channels) to scores (…, 1)."""
    from torch import nn

    if not hidden:
        return nn.Linear(channels, 1)
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def image_scores(patches: Tensor, fraction: float) -> Tensor:
    """Return the mean of the highest fraction of patch scores (top-k multiple-instance learning).

    Args:
        patches: float tensor (n, cells).
        fraction: fraction of the cells, of which at least one counts.

    Returns:
        float tensor (n,).
    """
    count = max(1, round(fraction * int(patches.shape[1])))
    return patches.topk(count, dim=1).values.mean(dim=1)


def deviation_loss(scores: Tensor, is_defect: Tensor, margin: float) -> Tensor:
    """Return the deviation loss of Pang et al. (KDD 2019, equations 6 and 7).

    The paper draws 5,000 reference scores from the standard normal prior and standardises by their
    mean and deviation; here these are 0 and 1, to which the drawn ones tend.

    Args:
        scores: float tensor (n,).
        is_defect: bool tensor (n,).
        margin: by how many deviations a defect has to exceed the prior's mean.
    """
    good = scores.abs()
    defective = (margin - scores).clamp_min(0)
    return (good * ~is_defect + defective * is_defect).mean()

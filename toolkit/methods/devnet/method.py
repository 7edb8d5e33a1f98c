"""Deviation networks on frozen features: few labelled defects, all good images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from toolkit.config import setting
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import DataError
from toolkit.methods.base import Labels, Method
from toolkit.methods.devnet.network import deviation_loss, image_scores, make_scorer
from toolkit.methods.features.cache import FeatureCache
from toolkit.methods.features.defects import (
    labelled_defects,
    pseudo_images,
    wants_pseudo,
)
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.features.maps import smooth, to_image_grid
from toolkit.methods.features.scorer import (
    build_extractor,
    features_of,
    good_images,
    load_state,
    save_state,
    training_extractor,
)
from toolkit.methods.features.settings import FeatureSettings, at_least, share
from toolkit.methods.features.training import Whitened, good_features
from toolkit.methods.size import note_parameters
from toolkit.prediction import Prediction
from toolkit.progress import progress, track
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from toolkit.methods.base import Exported

_BATCH = 16  # half of it defective, as in the paper


@dataclass(frozen=True)
class DevNetSettings(FeatureSettings):
    """Settings of the deviation network."""

    hidden: int = setting(64, "width of the hidden layer that scores a patch; 0: none")
    top: float = setting(0.02, "share of the patches whose mean score is the image's")
    margin: float = setting(5.0, "deviations by which a defect has to stand out (paper: 5)")
    steps: int = setting(400, "steps of training, each on 8 good and 8 defective images")
    lr: float = setting(1e-3, "learning rate")
    weight_decay: float = setting(0.01, "weight decay")
    whitening: float = setting(0.01, "shrinkage of the whitening of each layer's features")
    pseudo: Literal["auto", "always", "never"] = setting(
        "auto", "pseudo-defects (CutPaste, Perlin): where no defect is labelled, always, or never"
    )
    pseudo_count: int = setting(64, "how many pseudo-defects are made")
    max_images: int = setting(2000, "good images held in memory at most; more are drawn evenly")

    def __post_init__(self) -> None:
        """Reject values that nothing can be learnt with.

        Raises:
            ValueError: the message names the key.
        """
        super().__post_init__()
        if self.image_score != "max":
            raise ValueError(
                f"image_score={self.image_score}: deviation scores an image as it was trained to, "
                "by the mean of its highest patches; set --top"
            )
        share(self, "top")
        at_least(self, hidden=0, steps=0, lr=0, weight_decay=0, whitening=0)
        at_least(self, pseudo_count=1, max_images=1)


class DevNet(Method[DevNetSettings]):
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
    min_defects: ClassVar[int] = 0

    def fit(self, split: Split, run: Run) -> None:
        """Train on all good images and the labelled defects; pseudo-defects where there are none.

        Nothing is chosen on the validation part: the number of steps is fixed.

        Raises:
            DataError: no good images, or no defects and no pseudo-defects wanted.
        """
        settings = self.settings
        good = good_images(split, self.name)
        extractor = training_extractor(settings, run)
        cache = FeatureCache(extractor)
        normal, whitened = good_features(
            good,
            extractor,
            cache,
            most=settings.max_images,
            shrinkage=settings.whitening,
            seed=run.seed,
        )
        odd = self._defects(split, good, extractor, cache, run)
        run.update_metadata(features_cached=cache.hits)
        scorer = self._train([whitened(x) for x in normal], [whitened(x) for x in odd], run)
        note_parameters(run, extractor.backbone.network, scorer)
        state = {f"scorer.{k}": v for k, v in scorer.state_dict().items()}
        save_state(run, {**whitened.state(), **state}, extractor)

    def predict(self, samples: Sequence[Sample], run: Run) -> Iterator[Prediction]:
        """Yield one prediction with a anomaly map per sample; see `Method.predict`.

        Raises:
            WeightsError: nothing was learnt here, or with another backbone.
        """
        import torch

        settings = self.settings
        extractor = build_extractor(settings, run)
        whitened, scorer = self._load(run, extractor)
        size = settings.image_size
        for sample in samples:
            with torch.inference_mode():
                patches = scorer(whitened(features_of(sample, extractor)))[:, 0]
                score = float(image_scores(patches[None], settings.top))
            cells = patches.view(extractor.grid_hw).cpu().numpy()
            anomaly_map = smooth(to_image_grid(cells, (size, size)), settings.sigma)
            yield Prediction(sample_id=sample.id, score=score, anomaly_map=anomaly_map)

    def export(self, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write `model.onnx`: feature extractor and scorer; see `export_scorer`.

        Raises:
            MissingExtraError: ONNX is not installed.
            WeightsError: nothing was learnt here, or with another backbone.
        """
        from toolkit.methods.devnet.export import ScorerHead
        from toolkit.methods.features.export import export_scorer

        extractor = build_extractor(self.settings, run, device="cpu")
        head = ScorerHead(*self._load(run, extractor), self.settings.top)
        predictions = self.predict(samples, run)
        return export_scorer(extractor, head, self.settings, out, samples, predictions)

    def _load(self, run: Run, extractor: FeatureExtractor) -> tuple[Whitened, nn.Module]:
        scorer = make_scorer(extractor.channels, self.settings.hidden).to(extractor.device).eval()
        names = [f"scorer.{k}" for k in scorer.state_dict()]
        state = load_state(run, ["mean", "whitening", *names], extractor)
        scorer.load_state_dict({k.removeprefix("scorer."): state[k] for k in names})
        return Whitened(state["mean"], state["whitening"]), scorer

    def _defects(
        self,
        split: Split,
        good: Sequence[Sample],
        extractor: FeatureExtractor,
        cache: FeatureCache,
        run: Run,
    ) -> list[Tensor]:
        settings = self.settings
        labelled = labelled_defects(split)
        found = [cache.get(s) for s in labelled]
        if wants_pseudo(settings.pseudo, labelled):
            made = pseudo_images(good, settings.pseudo_count, seed=run.seed)
            shown = track(made, "pseudo-defects", settings.pseudo_count)
            found += [extractor(image).cpu().half() for image, _ in shown]
            run.update_metadata(pseudo_defects=settings.pseudo_count)
        if not found:
            raise DataError(
                f"{split.dataset.root}: no defect to learn from; use the protocol supervised, or "
                "--pseudo auto"
            )
        return found

    def _train(self, normal: list[Tensor], odd: list[Tensor], run: Run) -> nn.Module:
        import torch

        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            scorer = make_scorer(normal[0].shape[1], settings.hidden).to(run.device)
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
                batch = torch.stack([*drawn(normal), *drawn(odd)]).to(run.device)
                scores = image_scores(scorer(batch)[..., 0], settings.top)
                loss = deviation_loss(scores, is_defect, settings.margin)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if step % every == 0:
                    run.add_result({"epoch": step, "loss": float(loss.detach())})
                bar.advance()
        return scorer

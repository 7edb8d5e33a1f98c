"""PatchCore as a method: good images in, a memory bank and score maps out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from toolkit.data.images import read_rgb
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import DataError, WeightsError
from toolkit.methods.base import Labels, Method
from toolkit.methods.features.backbone import build_backbone
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.features.maps import image_score, resample, smooth
from toolkit.methods.features.reservoir import Reservoir
from toolkit.methods.patchcore.bank import BankMeta, MemoryBank
from toolkit.methods.patchcore.coreset import (
    exact_coreset,
    grouped_coreset,
    random_projection,
)
from toolkit.methods.patchcore.settings import PatchCoreSettings
from toolkit.progress import track
from toolkit.runs.prediction import Prediction
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor


class PatchCore(Method[PatchCoreSettings]):
    """PatchCore (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022).

    It keeps features of patches of good images and scores an image by how far its patches are from
    the nearest kept one.
    """

    name: ClassVar[str] = "patchcore"
    Settings: ClassVar[type] = PatchCoreSettings
    labels: ClassVar[Labels] = "none"
    scoring: ClassVar[str] = "distance to the nearest good patches"

    def fit(self, split: Split, run: Run) -> None:
        """Fill the memory bank from the good images of `split.train`; see `Method.fit`.

        Raises:
            DataError: no good images, or fewer patches than the coreset needs.
        """
        good = [s for s in split.train if not s.is_defect]
        if not good:
            raise DataError(
                f"{split.dataset.root}: no good images to train on; patchcore learns from them only"
            )
        extractor = self._extractor(run.device)
        backbone = extractor.backbone
        run.note(weights=backbone.weights, weights_source=backbone.source)
        started = time.perf_counter()
        reservoir = self._embed(good, extractor, run)
        embedded = time.perf_counter()
        features = reservoir.rows()
        chosen = self._choose(features, run)
        meta = BankMeta(
            backbone=backbone.name,
            layers=backbone.layers,
            weights=backbone.weights,
            weights_source=backbone.source,
            image_size=extractor.image_size,
            patch_size=extractor.patch_size,
            seen=reservoir.seen,
            kept=len(reservoir),
        )
        bank = MemoryBank(features[chosen], meta)
        bank.save(run.weights)
        run.note(
            patches_seen=reservoir.seen,
            patches_in_bank=len(bank),
            embed_seconds=round(embedded - started, 2),
            coreset_seconds=round(time.perf_counter() - embedded, 2),
        )

    def predict(self, samples: Sequence[Sample], run: Run) -> Iterator[Prediction]:
        """Yield one prediction with a score map per sample; see `Method.predict`.

        Raises:
            WeightsError: the bank is missing or was made by another backbone.
        """
        bank = MemoryBank.load(run.weights, device=run.device)
        extractor = self._extractor(run.device)
        _check_fits(bank, extractor, run)
        for sample in samples:
            yield self._score(sample, extractor, bank)

    def _score(self, sample: Sample, extractor: FeatureExtractor, bank: MemoryBank) -> Prediction:
        settings = self.settings
        patches = extractor(read_rgb(sample.image))
        distances, indices = bank.nearest(patches, min(settings.neighbours, len(bank)))
        scores = distances.mean(dim=1)
        size = extractor.image_size
        coarse = scores.view(1, 1, *extractor.grid_hw)
        score_map = smooth(resample(coarse, (size, size))[0, 0], settings.sigma)
        if settings.image_score == "max":
            worst = int(scores.argmax())
            score = bank.reweighted(
                patches[worst], scores[worst], int(indices[worst, 0]), settings.reweight
            )
        else:
            score = image_score(score_map, "top1")
        return Prediction(sample_id=sample.id, score=score, score_map=score_map.cpu().numpy())

    def _extractor(self, device: str) -> FeatureExtractor:
        settings = self.settings
        backbone = build_backbone(
            settings.backbone, weights=settings.weights, layers=settings.layers
        )
        return FeatureExtractor(
            backbone,
            image_size=settings.image_size,
            patch_size=settings.patch_size,
            device=device,
        )

    def _embed(self, samples: Sequence[Sample], extractor: FeatureExtractor, run: Run) -> Reservoir:
        rows, columns = extractor.grid_hw
        patches = len(samples) * rows * columns
        capacity = min(self.settings.max_patches, patches)
        if capacity < patches:
            run.log(f"{patches} patches, of which {capacity} drawn evenly are held (max_patches)")
        reservoir = Reservoir(capacity, extractor.channels, seed=run.seed)
        for sample in track(samples, "features"):
            reservoir.add(extractor(read_rgb(sample.image)).cpu())
        return reservoir

    def _choose(self, features: Tensor, run: Run) -> Tensor:
        settings = self.settings
        size = min(settings.coreset_size, round(settings.coreset_ratio * len(features)))
        if size < 1 or size > len(features):
            raise DataError(
                f"{len(features)} patches of good images cannot fill a coreset of {size}; "
                "add good images, or raise --coreset-ratio"
            )
        projected = random_projection(features, settings.projection, seed=run.seed)
        choose = exact_coreset if settings.coreset == "exact" else grouped_coreset
        return choose(projected, size, seed=run.seed, show=True)


def _check_fits(bank: MemoryBank, extractor: FeatureExtractor, run: Run) -> None:
    meta = bank.meta
    made = (meta.backbone, meta.layers, meta.weights, meta.image_size, meta.patch_size)
    backbone = extractor.backbone
    here = (
        backbone.name,
        backbone.layers,
        backbone.weights,
        extractor.image_size,
        extractor.patch_size,
    )
    if made != here:
        raise WeightsError(
            f"{run.weights}: the bank was made by {_told(*made)}, not by {_told(*here)}; "
            "use the settings it was trained with, or train again"
        )


def _told(
    backbone: str, layers: tuple[str, ...], weights: str, image_size: int, patch_size: int
) -> str:
    return f"{backbone} ({weights}) {'+'.join(layers)} at {image_size} px, patches of {patch_size}"

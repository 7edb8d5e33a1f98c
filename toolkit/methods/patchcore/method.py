"""PatchCore as a method: good images in, a memory bank and anomaly maps out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from toolkit.data.splits import Split
from toolkit.data.types import Sample, file_sha256
from toolkit.errors import ConfigError, DataError
from toolkit.files import write_json
from toolkit.methods.base import Labels, Method
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.features.maps import image_score, smooth, to_image_grid
from toolkit.methods.features.reservoir import Reservoir
from toolkit.methods.features.scorer import (
    build_extractor,
    features_of,
    good_images,
    training_extractor,
)
from toolkit.methods.features.whitening import fit_whitening
from toolkit.methods.patchcore.bank import BankMeta, MemoryBank
from toolkit.methods.patchcore.coreset import (
    covering_radius,
    exact_coreset,
    grouped_coreset,
    projected,
    projection,
)
from toolkit.methods.patchcore.extend import IMAGES, Extended, learnt_images, read_extended
from toolkit.methods.patchcore.settings import PatchCoreSettings
from toolkit.methods.size import note_parameters
from toolkit.prediction import Prediction
from toolkit.progress import progress, track
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from toolkit.methods.base import Exported

_PROBES = 5_000
"""Training patches whose distance to the coreset is measured."""


class PatchCore(Method[PatchCoreSettings]):
    """PatchCore (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022).

    It keeps features of patches of good images and scores an image by how far its patches are from
    the nearest kept one.
    """

    name: ClassVar[str] = "patchcore"
    Settings: ClassVar[type] = PatchCoreSettings
    labels: ClassVar[Labels] = "none"
    score_description: ClassVar[str] = "distance to the nearest good patches"
    min_defects: ClassVar[int] = 0

    def seen_images(self) -> frozenset[str]:
        """Return the images of the bank that is gone on with."""
        return learnt_images(self.settings.extend) if self.settings.extend else frozenset()

    def fit(self, split: Split, run: Run) -> None:
        """Fill the memory bank from the good images of `split.train`; see `Method.fit`.

        Raises:
            DataError: no good images, or fewer patches than the coreset needs.
        """
        import torch

        good = good_images(split, self.name)
        extractor = training_extractor(self.settings, run)
        backbone = extractor.backbone
        note_parameters(run, backbone.network)
        started = time.perf_counter()
        old = self._extended(extractor, split)
        known = set() if old is None else set(old.images)
        contents = {s.id: file_sha256(s.image) for s in good}
        new = [s for s in good if contents[s.id] not in known]
        reservoir = self._embed(new, extractor, run, held=0 if old is None else len(old.features))
        embedded = time.perf_counter()
        features = reservoir.rows()
        if old is not None:
            features = torch.cat([old.features, features.float()])
        seen = reservoir.seen + (0 if old is None else old.seen)
        size = self._coreset_size(seen, len(features))
        if old is not None and old.thinned:
            whitening = old.whitening  # a coreset says nothing of how all patches vary
        else:
            whitening = self._whitening(features, extractor, run)
        chosen, radius = self._choose(features, whitening, size, run)
        meta = BankMeta(
            backbone=backbone.name,
            layers=backbone.layers,
            weights=backbone.weights.name,
            weights_source=backbone.weights.source,
            fingerprint=backbone.fingerprint,
            image_size=extractor.image_size,
            patch_size=extractor.patch_size,
            stride=extractor.stride,
            contrast=extractor.contrast,
            seen=seen,
            kept=len(features),
            radius=radius,
            # Whitened features vary alike along all axes, so none of them can be left out.
            dimensions=self.settings.dimensions if self.settings.whitening < 0 else 0,
        )
        self._tell(size, radius, run)
        bank = MemoryBank(features[chosen].float() @ whitening, whitening, meta)
        bank.save(run.weights)
        write_json(run.weights / IMAGES, sorted(known.union(contents.values())))
        run.update_metadata(
            patches_seen=meta.seen,
            patches_in_bank=len(bank),
            coreset_radius=round(radius, 4),
            embed_seconds=round(embedded - started, 2),
            coreset_seconds=round(time.perf_counter() - embedded, 2),
        )

    def predict(self, samples: Sequence[Sample], run: Run) -> Iterator[Prediction]:
        """Yield one prediction with a anomaly map per sample; see `Method.predict`.

        Raises:
            WeightsError: the bank is missing or was made by another backbone.
        """
        extractor, bank = self.parts(run)
        for sample in samples:
            patches = bank.whitened(features_of(sample, extractor))
            yield self.answer(sample, patches, extractor, bank)

    def export(self, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write `model.onnx`: feature extractor and search in one graph; see `export_scorer`.

        Raises:
            MissingExtraError: ONNX is not installed.
            WeightsError: the bank is missing or was made by another backbone.
        """
        from toolkit.methods.features.export import export_scorer
        from toolkit.methods.patchcore.export import BankHead

        extractor, bank = self.parts(run, device="cpu")
        head = BankHead(bank, self.settings)
        predictions = self.predict(samples, run)
        return export_scorer(extractor, head, self.settings, out, samples, predictions)

    def parts(self, run: Run, *, device: str | None = None) -> tuple[FeatureExtractor, MemoryBank]:
        """Build the run's extractor and read its bank, on the run's device if none is given.

        Raises:
            MissingExtraError: the search is not installed.
            WeightsError: the bank is missing or damaged, or was made by another backbone.
        """
        device = device or run.device
        bank = MemoryBank.load(run.weights, device=device, search=self.settings.search)
        extractor = build_extractor(self.settings, run, device=device)
        bank.meta.check_made_by(extractor, run.weights)
        return extractor, bank

    def answer(
        self,
        sample: Sample,
        patches: Tensor,
        extractor: FeatureExtractor,
        bank: MemoryBank,
        *,
        raised: Tensor | None = None,
    ) -> Prediction:
        """Score one image.

        Args:
            sample: the image.
            patches: its features, whitened, float32 (cells, channels).
            extractor: that made them.
            bank: good patches.
            raised: factor of each patch's distance, float32 (cells,); 1 if None.
        """
        settings = self.settings
        scores = bank.distances(patches, settings.neighbours)
        if raised is not None:
            scores = scores * raised
        cells = scores.view(extractor.grid_hw).cpu().numpy()
        size = extractor.image_size
        anomaly_map = smooth(to_image_grid(cells, (size, size)), settings.sigma)
        if settings.image_score == "max":
            top = int(scores.argmax())
            score = bank.reweighted(patches[top], settings.reweight)
            score *= 1.0 if raised is None else float(raised[top])
        else:
            score = image_score(anomaly_map, "top_1_percent")
        return Prediction(sample_id=sample.id, score=score, anomaly_map=anomaly_map)

    def _extended(self, extractor: FeatureExtractor, split: Split) -> Extended | None:
        return (
            read_extended(self.settings.extend, extractor, split) if self.settings.extend else None
        )

    def _embed(
        self, samples: Sequence[Sample], extractor: FeatureExtractor, run: Run, *, held: int
    ) -> Reservoir:
        """Embed images; `held` patches of an earlier bank count towards `max_patches`."""
        rows, columns = extractor.grid_hw
        patches = len(samples) * rows * columns
        room = self.settings.max_patches - held
        if samples and room < 1:
            raise ConfigError(
                f"max_patches={self.settings.max_patches}: {self.settings.extend} holds {held} "
                "already, so nothing new fits; set --max-patches higher"
            )
        capacity = min(max(room, 0), patches)
        if capacity < patches:
            run.log(f"{patches} patches, of which {capacity} drawn evenly are held (max_patches)")
        reservoir = Reservoir(capacity, extractor.channels, seed=run.seed)
        for sample in track(samples, "features"):
            reservoir.add(features_of(sample, extractor).cpu())
        return reservoir

    def _coreset_size(self, seen: int, held: int) -> int:
        settings = self.settings
        size = min(settings.coreset_size, round(settings.coreset_ratio * seen))
        if not 1 <= size <= seen:
            raise DataError(
                f"{seen} patches of good images cannot give a coreset of {size}; add good "
                "images, or set --coreset-size to at least 1 and --coreset-ratio between 0 and 1"
            )
        return min(size, held)

    def _tell(self, size: int, radius: float, run: Run) -> None:
        wanted = self.settings.coreset_size
        if size < wanted:
            run.log(
                f"bank holds {size} patches, not the {wanted} asked for: coreset_ratio, "
                "max_patches or the number of images allows no more"
            )
        run.log(f"largest distance to the coreset {radius:.4g}, of {_PROBES} patches at most")

    def _whitening(self, features: Tensor, extractor: FeatureExtractor, run: Run) -> Tensor:
        import torch

        if self.settings.whitening < 0:
            return torch.eye(extractor.channels)
        return fit_whitening(
            features, extractor.layer_channels, shrinkage=self.settings.whitening, seed=run.seed
        )

    def _choose(
        self, features: Tensor, whitening: Tensor, size: int, run: Run
    ) -> tuple[Tensor, float]:
        """Return the indices of the coreset, and how far the furthest patch is from it."""
        import torch

        settings = self.settings
        matrix = whitening @ projection(len(whitening), settings.projection, seed=run.seed)
        if size == len(features):
            return torch.arange(size), 0.0
        if settings.coreset == "exact":
            chosen = exact_coreset(projected(features, matrix), size, seed=run.seed, show=True)
        else:
            chosen = grouped_coreset(features, size, seed=run.seed, matrix=matrix, show=True)
        generator = torch.Generator().manual_seed(run.seed)
        probes = features[torch.randint(len(features), (_PROBES,), generator=generator)]
        with progress("largest distance to the coreset", 1) as shown:
            centres = projected(features[chosen], matrix)
            radius = covering_radius(projected(probes, matrix), centres)
            shown.advance(distance=radius)
        return chosen, radius

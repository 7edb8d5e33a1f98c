"""PatchCore (Roth et al., CVPR 2022): distance to the nearest patches of good images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np

from toolkit.config import setting
from toolkit.data.alignment import ALIGNED, alignment_of
from toolkit.data.splits import Split
from toolkit.data.types import Sample, file_sha256
from toolkit.errors import ConfigError, DataError, RunError, WeightsError
from toolkit.files import read_json, write_json
from toolkit.methods.base import Labels
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.features.scorer import (
    FeatureScorer,
    load_state,
    patch_features,
    save_state,
    saved_input_hw,
)
from toolkit.methods.features.settings import FeatureSettings, check_fraction, check_minimum
from toolkit.methods.features.whitening import fit_whitening
from toolkit.methods.scorers.coreset import (
    approximate_coreset,
    covering_radius,
    exact_coreset,
    projected,
    projection,
)
from toolkit.methods.scorers.depths import (
    DepthBank,
    DepthBanks,
    depths_of,
    read_places,
    rows_of,
)
from toolkit.methods.scorers.extend import with_good_images
from toolkit.methods.scorers.held_patches import HeldPatches, owner_of, scaled
from toolkit.methods.scorers.indexed_bank import IndexedBank, import_faiss, pays
from toolkit.methods.scorers.memory_bank import MemoryBank
from toolkit.progress import progress, track
from toolkit.runs.run import Run
from toolkit.weights.lite0 import LITE_NAMES

if TYPE_CHECKING:
    from torch import Tensor

_IMAGES = "images.json"
"""Contents (SHA-256) of the images that a bank was made of, beside the bank."""
_PROBES = 5_000
"""Training patches whose distance to the coreset is measured."""
_SCALE_IMAGES = 30
"""Training images whose distances from the others are measured."""


@dataclass(frozen=True)
class PatchCoreSettings(FeatureSettings):
    """Settings of PatchCore; docs/experiments/scorers.md has the tables they were chosen by."""

    image_size: int = setting(416, "side in pixels of the square that images are resized to")
    feature_stride: int = setting(
        8, "pixels per cell of the feature grid; 0: the finest layer's", advanced=True
    )
    whitening: float | None = setting(
        0.1,
        "shrinkage of the whitening of each layer's features; none: no whitening",
        advanced=True,
    )
    position: Literal["auto", "on", "off"] = setting(
        "auto", "count a patch's place, too; auto: where the good images lie alike"
    )
    coreset_size: int = setting(
        2000, "patches in the bank of deep layers at most; that of shallow ones has half as many"
    )
    coreset_sampling_ratio: float = setting(
        0.1, "fraction of all patches in each bank at most", advanced=True
    )
    coreset: Literal["approximate", "exact"] = setting(
        "approximate", "greedy choice within groups (fast), or over all patches", advanced=True
    )
    projection_dim: int = setting(
        64, "dimensions in which the coreset is chosen; 0: all", advanced=True
    )
    index: Literal["exact", "ivf-pq"] = setting(
        "exact", "search of the bank; ivf-pq is for banks of many thousand patches (faiss)"
    )
    max_patches: int = setting(
        100_000, "patches held in memory per bank at most; more are sampled evenly", advanced=True
    )
    pca_dim: int = setting(
        48,
        "principal axes along which patches are compared; 0, or with whitening: all",
        advanced=True,
    )
    num_neighbors: int = setting(
        1, "nearest patches whose mean distance is a patch's score", advanced=True
    )
    image_score: Literal["max", "top_1_percent"] = setting(
        "top_1_percent", "image score: maximum of the map, or mean of its highest 1 %"
    )
    sigma: float = setting(
        3.0, "smoothing of the anomaly map, in pixels of the resized image", advanced=True
    )
    base_run: str = setting(
        "", "run whose bank is extended: only images new to it are embedded", advanced=True
    )

    def __post_init__(self) -> None:
        """Reject a memory that holds nothing, and a search for nothing.

        Raises:
            ValueError: the message names the key.
        """
        super().__post_init__()
        check_fraction(self, "coreset_sampling_ratio")
        check_minimum(self, coreset_size=1, max_patches=1, num_neighbors=1)
        check_minimum(self, projection_dim=0, pca_dim=0)
        if self.whitening is not None:
            check_minimum(self, whitening=0)


S = TypeVar("S", bound=PatchCoreSettings)


class PatchCoreBase(FeatureScorer[S]):
    """What PatchCore and PatchCore+ share: a bank of good patches, whole or thinned."""

    # One layer more than other scorers: its 32-pixel stride finds misplaced parts.
    default_layers: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
        LITE_NAMES, ("blocks.1", "blocks.2", "blocks.4", "blocks.5")
    )

    def input_hw(self, good: Sequence[Sample]) -> tuple[int, int] | None:
        """Return the input's shape: of the base run, if there is one."""
        if self.settings.base_run:
            return saved_input_hw(Run.open(Path(self.settings.base_run)))
        return super().input_hw(good)

    def seen_images(self) -> frozenset[str]:
        """Return the contents of the images of the base run; empty if there is none.

        Raises:
            RunError: the base run is no run.
        """
        if not self.settings.base_run:
            return frozenset()
        path = Run.open(Path(self.settings.base_run)).weights / _IMAGES
        return frozenset(read_json(path)) if path.is_file() else frozenset()

    def extend(
        self,
        base: Run,
        run: Run,
        good: Sequence[Path],
        defects: Sequence[tuple[Path, Path]] = (),
    ) -> None:
        """Add patches of images to the banks; see `with_good_images`."""
        extractor = self.extractor(base, input_hw=saved_input_hw(base))
        state = load_state(base, extractor)
        save_state(run, self.extended(state, extractor, good, defects), extractor)
        known = set(read_json(base.weights / _IMAGES)) | {file_sha256(path) for path in good}
        write_json(run.weights / _IMAGES, sorted(known))

    def extended(
        self,
        state: Mapping[str, Tensor],
        extractor: FeatureExtractor,
        good: Sequence[Path],
        defects: Sequence[tuple[Path, Path]],
    ) -> dict[str, Tensor]:
        """Return the state with patches of good images."""
        banks = with_good_images(self.restore_bank(state, extractor), good, extractor)
        return banks.state()

    def learn_bank(
        self, split: Split, good: Sequence[Sample], extractor: FeatureExtractor, run: Run
    ) -> DepthBanks:
        """Fill the memory banks from good images.

        Raises:
            DataError: fewer patches than the coreset needs.
        """
        if self.settings.index != "exact":
            import_faiss()  # before the work and not behind it
        base = _read_base(self, extractor, split) if self.settings.base_run else None
        contents = {s.id: file_sha256(s.image) for s in good}
        known = set() if base is None else set(base.images)
        new = [s for s in good if contents[s.id] not in known]
        aligned = self._is_aligned(good, run) if base is None else base.banks[0].places is not None
        kept = [
            HeldPatches(
                depth,
                len(new),
                extractor,
                max_patches=self.settings.max_patches,
                run=run,
                base=bank,
            )
            for depth, bank in zip(
                depths_of(extractor), base.banks if base else (None, None), strict=False
            )
        ]
        for sample in track(new, "features"):
            patches = patch_features(sample, extractor)
            for one in kept:
                rows = rows_of(one.depth.grid(patches, extractor.grid_hw)).cpu()
                one.add(rows, owner_of(contents[sample.id]), aligned=aligned)
        images_seen = len(new) + (0 if base is None else base.images_seen)
        wanted = self.settings.coreset_size
        sizes = [max(1, wanted // 2), wanted][-len(kept) :]
        banks = [
            self._thinned(one, images_seen, n, run) for one, n in zip(kept, sizes, strict=True)
        ]
        write_json(run.weights / _IMAGES, sorted(known.union(contents.values())))
        run.update_metadata(
            patches_seen=images_seen * kept[0].cells,
            patches_held=len(kept[0]),
            patches_in_bank=len(banks[0].bank),
        )
        chosen = np.unique(np.linspace(0, len(good) - 1, _SCALE_IMAGES).astype(int))
        return scaled(banks, [good[i] for i in chosen], extractor)

    def restore_bank(self, state: Mapping[str, Tensor], extractor: FeatureExtractor) -> DepthBanks:
        """Make the banks again from their saved state."""
        banks = [
            DepthBank(
                depth,
                self._bank(
                    *(state[f"{i}.{key}"] for key in ("features", "owners")),
                    *(state.get(f"{i}.{key}") for key in ("whitening", "index", "weights")),
                ),
                read_places(state, i),
                state[f"{i}.scale"],
            )
            for i, depth in enumerate(depths_of(extractor))
        ]
        return DepthBanks(banks, extractor.grid_hw)

    def _bank(
        self,
        features: Tensor,
        owners: Tensor,
        whitening: Tensor | None,
        index: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        learn_index: bool = False,
    ) -> MemoryBank:
        same: dict[str, Any] = {"owners": owners, "num_neighbors": self.settings.num_neighbors}
        if learn_index or index is not None:
            return IndexedBank(features, whitening, index=index, **same)
        axes = self.settings.pca_dim
        return MemoryBank(features, whitening, pca_dim=axes, weights=weights, **same)

    def _is_aligned(self, good: Sequence[Sample], run: Run) -> bool:
        found = alignment_of(good)
        aligned = len(good) > 1 and (
            found >= ALIGNED if self.settings.position == "auto" else self.settings.position == "on"
        )
        run.update_metadata(alignment=round(found, 3), position=aligned)
        run.log(
            f"alignment of the good images {found:.2f}: a patch's place "
            f"{'counts' if aligned else 'means nothing'} (position {self.settings.position})"
        )
        return aligned

    def _thinned(self, kept: HeldPatches, images_seen: int, wanted: int, run: Run) -> DepthBank:
        """Choose the coreset of one depth, of at most as many patches as wanted."""
        import torch

        features, owners, settings = kept.features(), kept.owners(), self.settings
        seen = images_seen * kept.cells
        size = self._coreset_size(seen, len(features), wanted)
        if size < wanted:
            run.log(
                f"bank holds {size} patches, not {wanted}: coreset_sampling_ratio, max_patches or "
                "the number of images allows no more"
            )
        if kept.base is not None and len(kept.base.bank) < seen - kept.seen:
            whitening = kept.base.bank.whitening  # a thinned bank does not show how patches vary
        elif settings.whitening is None:
            whitening = None
        else:
            whitening = fit_whitening(
                features, kept.depth.channels, shrinkage=settings.whitening, seed=run.seed
            )
        chosen, radius = self._choose(features, whitening, size, run)
        if kept.depth.start == 0:
            run.update_metadata(coreset_radius=round(radius, 4))
        learn_index = settings.index != "exact" and pays(size, run.log)
        bank = self._bank(features[chosen], owners[chosen], whitening, learn_index=learn_index)
        return DepthBank(kept.depth, bank, kept.places, torch.empty(0))

    def _coreset_size(self, seen: int, held: int, wanted: int) -> int:
        size = min(wanted, round(self.settings.coreset_sampling_ratio * seen))
        if not 1 <= size <= seen:
            raise DataError(
                f"{seen} patches of good images cannot give a coreset of {size}; add good images, "
                "or set --coreset-size to at least 1 and --coreset-sampling-ratio between 0 and 1"
            )
        return min(size, held)

    def _choose(
        self, features: Tensor, whitening: Tensor | None, size: int, run: Run
    ) -> tuple[Tensor, float]:
        """Return the indices of the coreset, and how far the furthest patch is from it."""
        import torch

        settings, channels = self.settings, int(features.shape[1])
        if size == len(features):
            run.log("largest distance to the coreset 0: the bank holds every patch")
            return torch.arange(size), 0.0
        matrix = projection(channels, settings.projection_dim, seed=run.seed)
        if whitening is not None:
            matrix = whitening @ matrix
        if settings.coreset == "exact":
            chosen = exact_coreset(projected(features, matrix), size, seed=run.seed, show=True)
        else:
            chosen = approximate_coreset(features, size, seed=run.seed, matrix=matrix, show=True)
        generator = torch.Generator().manual_seed(run.seed)
        probes = features[torch.randint(len(features), (_PROBES,), generator=generator)]
        with progress("largest distance to the coreset", 1) as bar:
            centres = projected(features[chosen], matrix)
            radius = covering_radius(projected(probes, matrix), centres)
            bar.advance(distance=radius)
        run.log(f"largest distance to the coreset {radius:.4g}, of {_PROBES} patches")
        return chosen, radius


class PatchCore(PatchCoreBase[PatchCoreSettings]):
    """PatchCore (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022).

    It keeps features of patches of good images and scores an image by how far its patches are from
    the nearest kept one.
    """

    name: ClassVar[str] = "patchcore"
    Settings: ClassVar[type] = PatchCoreSettings
    labels: ClassVar[Labels] = "none"
    score_description: ClassVar[str] = "distance to the nearest good patches"

    def learn(
        self, split: Split, good: Sequence[Sample], extractor: FeatureExtractor, run: Run
    ) -> DepthBanks:
        """Fill the memory banks; see `learn_bank`."""
        return self.learn_bank(split, good, extractor, run)

    def restore(self, state: Mapping[str, Tensor], extractor: FeatureExtractor) -> DepthBanks:
        """Make the banks again from their saved state."""
        return self.restore_bank(state, extractor)


@dataclass(frozen=True)
class _Base:
    """What is extended: banks by depth, how many images they saw, and contents of the images."""

    banks: tuple[DepthBank, ...]
    images_seen: int
    images: tuple[str, ...]


def _read_base(method: PatchCoreBase[S], extractor: FeatureExtractor, split: Split) -> _Base:
    """Read the bank of the base run.

    Raises:
        ConfigError: it was whitened otherwise.
        RunError: no run there, not one of this method, or it learned from an image that this split
            validates or tests with.
        WeightsError: the bank is missing, damaged, or was made with another extractor.
    """
    run = Run.open(Path(method.settings.base_run))
    state = load_state(run, extractor)
    path = run.weights / _IMAGES
    if "0.features" not in state or not path.is_file():
        raise WeightsError(f"{path}: missing, so its images are not known; train patchcore again")
    theirs, ours = run.record["settings"].get("whitening"), method.settings.whitening
    if theirs != ours:
        raise ConfigError(f"whitening={ours}: {run.path} has {theirs}; set the same")
    images = tuple(read_json(path))
    held_out = {split.dataset.content[s.id]: s.id for s in (*split.val, *split.test)}
    leaked = sorted(held_out[c] for c in images if c in held_out)
    if leaked:
        raise RunError(
            f"{run.path}: learned from {leaked[0]}, which is held out here; extend a run of the "
            "same split"
        )
    banks = method.restore_bank({k: v.cpu() for k, v in state.items()}, extractor).depths
    cells = extractor.grid_hw[0] * extractor.grid_hw[1]
    return _Base(banks, int(run.metadata["patches_seen"]) // cells, images)

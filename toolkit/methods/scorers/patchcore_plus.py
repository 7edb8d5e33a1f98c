"""PatchCore+: PatchCore with a second bank, of patches of the few labelled defects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from toolkit.config import setting
from toolkit.data.images import read_mask, read_rgb, read_truth
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import DataError
from toolkit.methods.base import Labels
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.features.scorer import patch_features
from toolkit.methods.features.settings import check_minimum
from toolkit.methods.features.synthetic_defects import (
    make_synthetic_defects,
    wants_synthetic_defects,
)
from toolkit.methods.scorers.depths import DepthBanks
from toolkit.methods.scorers.memory_bank import MemoryBank
from toolkit.methods.scorers.patchcore import PatchCoreBase, PatchCoreSettings
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn


@dataclass(frozen=True)
class PatchCorePlusSettings(PatchCoreSettings):
    """Settings of PatchCore and of the bank of defects."""

    defect_weight: float = setting(
        1.0, "a patch equal to a known defect scores 1 + defect_weight times as much"
    )
    defect_patches: int = setting(4000, "defect patches kept at most, drawn evenly", advanced=True)
    synthetic_defects: Literal["auto", "always", "never"] = setting(
        "auto", "make defects (CutPaste, Perlin): where none is labelled, always, or never"
    )
    synthetic_defects_count: int = setting(64, "number of synthetic defects", advanced=True)

    def __post_init__(self) -> None:
        """Reject values that nothing can be learned with.

        Raises:
            ValueError: the message names the key.
        """
        super().__post_init__()
        check_minimum(self, defect_weight=0, defect_patches=1, synthetic_defects_count=1)


class PatchCorePlus(PatchCoreBase[PatchCorePlusSettings]):
    """PatchCore whose scores rise where a patch resembles a labelled defect.

    A patch scores d · (1 + w · exp(-e)), where d is its distance to good patches, w the defect
    weight, and e its distance to defect patches as a multiple of the mean distance of good patches
    to their bank, averaged over the depths. It never
    scores less than with PatchCore, so that unlabelled kinds of defects are not lost.
    """

    name: ClassVar[str] = "patchcore+"
    Settings: ClassVar[type] = PatchCorePlusSettings
    labels: ClassVar[Labels] = "mask"
    has_defect_bank: ClassVar[bool] = True
    score_description: ClassVar[str] = "distance to good patches, raised near labelled defects"

    def learn(
        self, split: Split, good: Sequence[Sample], extractor: FeatureExtractor, run: Run
    ) -> TwoBanks:
        """Fill the bank of good patches, then that of defects from the masks of labelled ones.

        Raises:
            DataError: no defects, and no synthetic ones wanted.
        """
        import torch

        bank = self.learn_bank(split, good, extractor, run)
        patches, distances = self._defect_patches(split, good, extractor, bank, run)
        held_out = [s for s in split.val if not s.is_defect] or list(good)
        typical = torch.cat(
            [bank.distances(patch_features(s, extractor).cpu()) for s in held_out[:10]]
        )
        # Patches at a defect's rim that resemble good ones would raise good images.
        kept = patches[distances > typical.double().quantile(0.99)]
        kept = kept if len(kept) else patches[distances.argmax()][None]
        run.update_metadata(defect_patches_seen=len(patches), defect_patches=len(kept))
        generator = torch.Generator().manual_seed(run.seed)
        drawn = torch.randperm(len(kept), generator=generator)[: self.settings.defect_patches]
        return TwoBanks(bank, kept[drawn.sort().values], self.settings.defect_weight)

    def extended(
        self,
        state: Mapping[str, Tensor],
        extractor: FeatureExtractor,
        good: Sequence[Path],
        defects: Sequence[tuple[Path, Path]],
    ) -> dict[str, Tensor]:
        """Extend both banks; of defects by the half of the cells in their masks that is furthest.

        The rest, mostly at the rim, may resemble good patches.
        """
        import torch

        whole = super().extended(state, extractor, good, defects)
        bank = self.restore_bank(whole, extractor)
        known = [state["defects"]]
        for path, mask in defects:
            patches = extractor(read_rgb(path))
            cells = cells_in(read_mask(mask), extractor.grid_hw)
            distances = bank.distances(patches)[cells]
            known.append(patches[cells][distances >= distances.median()])
        return {**whole, "defects": torch.cat(known)}

    def restore(self, state: Mapping[str, Tensor], extractor: FeatureExtractor) -> TwoBanks:
        """Make both banks again from their saved state."""
        bank = self.restore_bank(state, extractor)
        return TwoBanks(bank, state["defects"], self.settings.defect_weight)

    def _defect_patches(
        self,
        split: Split,
        good: Sequence[Sample],
        extractor: FeatureExtractor,
        bank: DepthBanks,
        run: Run,
    ) -> tuple[Tensor, Tensor]:
        """Return the patches in the defects, (n, channels), and their scores, (n,)."""
        import torch

        settings = self.settings
        patches: list[Tensor] = []
        distances: list[Tensor] = []

        def add(found: Tensor, mask: NDArray[np.bool_]) -> None:
            inside = cells_in(mask, extractor.grid_hw)
            patches.append(found.cpu()[inside])
            distances.append(bank.distances(found.cpu())[inside])

        labelled = [s for s in split.train if s.has_mask]
        for sample in labelled:
            add(patch_features(sample, extractor), read_truth(sample))
        if wants_synthetic_defects(settings.synthetic_defects, labelled):
            count = settings.synthetic_defects_count
            for image, mask in make_synthetic_defects(good, count, seed=run.seed):
                add(extractor(image), mask)
            run.update_metadata(synthetic_defects=count)
        if not patches:
            raise DataError(
                f"{split.dataset.root}: no defect with a mask to learn from; use the protocol "
                "supervised, or --synthetic-defects auto"
            )
        return torch.cat(patches), torch.cat(distances)


class TwoBanks:
    """Banks of good patches and of defects.

    Args:
        bank: good patches.
        defects: patches of defects, before whitening, float32 (n, d).
        defect_weight: by how much the distance of a defect's own patch is raised.
    """

    def __init__(self, bank: DepthBanks, defects: Tensor, defect_weight: float) -> None:
        self.bank, self.defects, self.defect_weight = bank, defects, defect_weight
        # In all dimensions: along the few axes of the bank, good patches could lie near defects.
        self._known = {
            one.depth: MemoryBank(one.depth.columns(defects), one.bank.whitening)
            for one in bank.depths
        }

    def __call__(self, patches: Tensor) -> tuple[Tensor, None]:
        """Return the raised distances of the cells; see `Head`."""
        return self._scores(self.bank.grids(patches)), None

    @property
    def in_torch(self) -> bool:
        """See `DepthBanks`."""
        return self.bank.in_torch

    def of_layers(self, layers: Sequence[Tensor]) -> tuple[Tensor, None]:
        """Return the same for the layers apart; see `LayersHead`."""
        return self._scores(self.bank.grids_of_layers(layers)), None

    def _scores(self, grids: Sequence[Tensor]) -> Tensor:
        near = self.bank.summed(
            grids, lambda one, rows: self._known[one.depth].distances(rows) / one.scale[0, 0]
        )
        factor = 1.0 + self.defect_weight * (-near / len(self.bank.depths)).exp()
        return self.bank.scores(grids) * factor

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that are saved."""
        return {**self.bank.state(), "defects": self.defects}

    def networks(self) -> list[nn.Module]:
        """Return no networks."""
        return []


def cells_in(
    mask: NDArray[np.bool_], grid_hw: tuple[int, int], *, min_coverage: float = 0.5
) -> Tensor:
    """Return which cells of a grid lie in a mask, bool tensor (cells,).

    Where no cell is covered by `min_coverage`, the one that is covered most is taken, so that a
    scratch counts.

    Args:
        mask: bool array (H, W) of the image's size.
        grid_hw: rows and columns of the grid.
        min_coverage: fraction of a cell's area that has to be defective.
    """
    import cv2
    import torch

    rows, columns = grid_hw
    covered = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    inside = covered >= min_coverage
    if not inside.any() and covered.max() > 0:
        inside = covered == covered.max()
    return torch.from_numpy(inside.ravel())

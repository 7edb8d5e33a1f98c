"""What PatchCore holds of good images while it learns, and how far good images are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from toolkit.data.types import Sample, file_sha256
from toolkit.errors import ConfigError
from toolkit.methods.features.scorer import patch_features
from toolkit.methods.scorers.coreset import Reservoir
from toolkit.methods.scorers.depths import Depth, DepthBank, DepthBanks, Places, rows_of
from toolkit.progress import track
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.methods.features.extractor import FeatureExtractor

_FLOOR = 1e-6


class HeldPatches:
    """The patches of one depth that are held while images are embedded, and moments of places.

    Args:
        depth: which layers.
        images: how many are to come.
        extractor: of their features.
        max_patches: held at most, those of `base` included.
        run: whose log tells what cannot be held.
        base: what an earlier run has learned at this depth, which is extended.

    Attributes:
        cells: of one image.
        places: moments so far; None: none yet, or place means nothing.

    Raises:
        ConfigError: `base` holds so many already that nothing new fits.
    """

    def __init__(
        self,
        depth: Depth,
        images: int,
        extractor: FeatureExtractor,
        *,
        max_patches: int,
        run: Run,
        base: DepthBank | None,
    ) -> None:
        rows, columns = (-(-n // depth.pool) for n in extractor.grid_hw)
        self.depth, self.base, self.cells = depth, base, rows * columns
        self.places = None if base is None else base.places
        held = 0 if base is None else len(base.bank)
        patches, room = images * self.cells, max_patches - held
        if images and room < 1:
            raise ConfigError(
                f"max_patches={max_patches}: the base run holds {held} "
                "already, so nothing new fits; set --max-patches higher"
            )
        capacity = min(max(room, 0), patches)
        if capacity < patches:
            run.log(f"{patches} patches, of which {capacity} drawn evenly are held (max_patches)")
        self._reservoir = Reservoir(capacity, sum(depth.channels) + 1, seed=run.seed)

    def __len__(self) -> int:
        return len(self._reservoir) + (0 if self.base is None else len(self.base.bank))

    @property
    def seen(self) -> int:
        """Patches that were added."""
        return self._reservoir.seen

    def add(self, rows: Tensor, owner: int, *, aligned: bool) -> None:
        """Take in the rows of one image, and their places where the images are aligned."""
        import torch

        if aligned:
            places = Places.none(rows) if self.places is None else self.places
            self.places = places.with_image(rows)
        self._reservoir.add(torch.cat([rows, torch.full((len(rows), 1), float(owner))], dim=1))

    def features(self) -> Tensor:
        """Return all patches that are held, (len(self), channels)."""
        import torch

        new = self._reservoir.rows()[:, :-1]
        if self.base is None:
            return new
        return torch.cat([self.base.bank.features.float(), new.float()])

    def owners(self) -> Tensor:
        """Return of which image each patch is, int32 (len(self),)."""
        import torch

        new = self._reservoir.rows()[:, -1].int()
        if self.base is None or self.base.bank.owners is None:
            return new
        return torch.cat([self.base.bank.owners, new])


def owner_of(content: str) -> int:
    """Return a number of an image that half precision holds exactly; few images share one."""
    return int(content[:8], 16) % 2048


def scaled(
    banks: Sequence[DepthBank], good: Sequence[Sample], extractor: FeatureExtractor
) -> DepthBanks:
    """Measure how far good images are, each from the patches of the others, and add the depths.

    The patches of each bank are weighted by it, too; see `MemoryBank.weighted`.

    Args:
        banks: without a scale.
        good: training images.
        extractor: of their features.
    """
    measured = [_HeldOut(one) for one in banks]
    for sample in track(good, "distances"):
        patches = patch_features(sample, extractor)
        owner = owner_of(file_sha256(sample.image))
        for one in measured:
            one.add(rows_of(one.bank.depth.grid(patches, extractor.grid_hw)).cpu(), owner)
    return DepthBanks([one.scaled() for one in measured], extractor.grid_hw)


class _HeldOut:
    """Distances of good patches at one depth, each image measured without itself."""

    def __init__(self, bank: DepthBank) -> None:
        self.bank = bank
        self._distances: list[list[Tensor]] = []
        self._nearest: list[Tensor] = []

    def add(self, rows: Tensor, owner: int) -> None:
        """Measure the rows of one training image."""
        distances, nearest = self.bank.held_out_distances(rows, owner)
        self._distances.append(distances)
        self._nearest.append(nearest)

    def scaled(self) -> DepthBank:
        """Return what the depth has learned, with its scale and weights."""
        import torch

        together = torch.stack([torch.cat(one) for one in zip(*self._distances, strict=True)])
        mean = together.mean(dim=1)
        # The floor is for images that are all the same.
        spread = together.std(dim=1).maximum(0.01 * mean).clamp_min(_FLOOR)
        bank = self.bank.bank.weighted(torch.cat(self._nearest), together[0])
        return replace(self.bank, bank=bank, scale=torch.stack([mean, spread]))

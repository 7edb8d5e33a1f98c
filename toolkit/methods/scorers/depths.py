"""Depths of a network that are scored apart and added: outlines from shallow layers, objects from
deep ones.

Each depth has a bank of its own on a grid of its own. Its distances are divided by how much they
vary among good images, so that depths can be added. The wide fields of deep layers make a defect's
surroundings as unusual as the defect; a cap on their distances leaves the outline to the shallow
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.methods.features.anomaly_map import resample
from toolkit.methods.scorers.memory_bank import MemoryBank

if TYPE_CHECKING:
    from torch import Tensor, nn

    from toolkit.methods.features.extractor import FeatureExtractor

_CAP = 4.0
"""Standard deviations above the mean of good patches, beyond which a deep distance counts alike."""
_PLACE_WEIGHT = 0.5
_FLOOR = 1e-6
_SHRINKAGE = 1.0


@dataclass(frozen=True)
class Depth:
    """Layers that are compared together.

    Attributes:
        channels: of each layer.
        start: first column of the layers in a patch feature.
        pool: cells of the feature grid per cell of the depth's grid, along each side.
    """

    channels: tuple[int, ...]
    start: int
    pool: int

    def columns(self, patches: Tensor) -> Tensor:
        """Return the depth's columns of patches (n, channels of all layers)."""
        return patches[:, self.start : self.start + sum(self.channels)]

    def grid(self, patches: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """Return the depth's features, float32 (1, channels, rows, columns).

        Args:
            patches: float32 tensor (cells, channels of all layers), row by row.
            grid_hw: rows and columns of the cells.
        """
        grid = self.columns(patches).T.reshape(1, -1, *grid_hw)
        return resample(grid, self.pooled(grid_hw))

    def grid_of_layers(self, layers: Sequence[Tensor], grid_hw: tuple[int, int]) -> Tensor:
        """Return what `grid` returns for the patches of the same image, without making them.

        Args:
            layers: the depth's layers, averaged over neighbourhoods, float32 (1, C, h, w) each.
            grid_hw: rows and columns of the cells.
        """
        import torch

        wanted = self.pooled(grid_hw)
        return torch.cat(
            [
                resample(one if self._skips(one, grid_hw) else resample(one, grid_hw), wanted)
                for one in layers
            ],
            dim=1,
        )

    def pooled(self, grid_hw: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of the depth's grid."""
        return (-(-grid_hw[0] // self.pool), -(-grid_hw[1] // self.pool))

    def _skips(self, layer: Tensor, grid_hw: tuple[int, int]) -> bool:
        """Return whether a layer gives the same by way of the cells' grid and without it.

        Each cell of the pooled grid is the mean of two cells per axis. Where no centre of the
        layer's own cells lies between them, interpolation is linear there, and that mean is the
        value in their middle.
        """
        return self.pool == 2 and all(
            cells % (4 * own) == 0 for cells, own in zip(grid_hw, layer.shape[2:], strict=True)
        )


def depths_of(extractor: FeatureExtractor) -> tuple[Depth, ...]:
    """Divide the layers of an extractor: those as fine as its grid, and the coarser ones.

    One depth where all layers are of a kind, or are not named from fine to coarse.
    """
    is_fine = [rows >= extractor.grid_hw[0] for rows, _ in extractor.layer_grids]
    channels, fine = extractor.layer_channels, sum(is_fine)
    if fine in (0, len(channels)) or not all(is_fine[:fine]):
        return (Depth(channels, 0, 1),)
    return (Depth(channels[:fine], 0, 1), Depth(channels[fine:], sum(channels[:fine]), 2))


def rows_of(grid: Tensor) -> Tensor:
    """Return the cells of a grid (1, channels, rows, columns) row by row, (cells, channels)."""
    return grid[0].flatten(1).T


class Places:
    """Mean and variance of good features at each place; images join and leave one by one.

    Attributes:
        count: images.
        mean, squares: of each channel at each place, float32 (places, channels): mean, and sum of
            squared deviations from it.
    """

    def __init__(self, count: int, mean: Tensor, squares: Tensor) -> None:
        self.count, self.mean, self.squares = count, mean, squares

    @classmethod
    def none(cls, like: Tensor) -> Places:
        """Return the moments of no image, for features of a shape."""
        import torch

        return cls(0, torch.zeros_like(like), torch.zeros_like(like))

    def with_image(self, rows: Tensor, sign: int = 1) -> Places:
        """Return the moments with one more image (sign 1), or without one (-1); Welford 1962."""
        count = self.count + sign
        offset = rows - self.mean
        mean = self.mean + sign * offset / count
        return Places(count, mean, self.squares + sign * offset * (rows - mean))

    def distances(self, rows: Tensor) -> Tensor:
        """Return the root mean square deviation of each place, in standard deviations, (places,).

        A channel's mean variance is added to its variance at each place: few images tell little of
        one place alone.
        """
        variance = self.squares.clamp_min(0) / max(self.count - 1, 1)
        variance = variance + _SHRINKAGE * variance.mean(dim=0) + _FLOOR
        mean_square: Tensor = ((rows - self.mean).square() / variance).mean(dim=1)
        return mean_square.sqrt()


@dataclass(frozen=True)
class DepthBank:
    """What one depth has learned.

    Attributes:
        depth: its layers.
        bank: its good patches.
        places: its moments at each place; None: place means nothing.
        scale: float32 (2, 1 or 2): mean and standard deviation of the distances of good patches
            from the bank, and from their places.
    """

    depth: Depth
    bank: MemoryBank
    places: Places | None
    scale: Tensor

    def distances(self, rows: Tensor) -> list[Tensor]:
        """Return the distances of rows from the bank, and from their places, (cells,) each."""
        found = [self.bank.distances(rows)]
        return found if self.places is None else [*found, self.places.distances(rows)]

    def held_out_distances(self, rows: Tensor, owner: int) -> tuple[list[Tensor], Tensor]:
        """Return the same of a training image, as if it had not been learned from.

        And the numbers of the nearest patches of the bank, int64 (cells,).
        """
        found, nearest = self.bank.nearest(rows, without=owner)
        if self.places is None:
            return [found], nearest
        others = self.places.with_image(rows, -1) if self.places.count > 1 else self.places
        return [found, others.distances(rows)], nearest

    def score(self, rows: Tensor, *, capped: bool) -> Tensor:
        """Return the sum of the distances, each divided by its standard deviation, (cells,).

        Args:
            rows: float32 tensor (cells, channels).
            capped: whether distances are capped, as those of deep layers are. Of the others, the
                place counts half: outlines lie less alike than objects.
        """
        import torch

        mean, spread = self.scale
        found = torch.stack(self.distances(rows), dim=1)
        if capped:
            return torch.sum(found.minimum(mean + _CAP * spread) / spread, dim=1)
        weights = torch.tensor([1.0, _PLACE_WEIGHT][: found.shape[1]]).to(found)
        return torch.sum(found / spread * weights, dim=1)


class DepthBanks:
    """The depths of a scorer, added; a `Head`.

    Args:
        depths: what each has learned, the finest first.
        grid_hw: rows and columns of the feature grid.
    """

    def __init__(self, depths: Sequence[DepthBank], grid_hw: tuple[int, int]) -> None:
        self.depths, self.grid_hw = tuple(depths), grid_hw

    def __call__(self, patches: Tensor) -> tuple[Tensor, None]:
        """Return the scores of the cells; see `Head`."""
        return self.distances(patches), None

    def of_layers(self, layers: Sequence[Tensor]) -> tuple[Tensor, None]:
        """Return the same for the layers apart; see `LayersHead`."""
        return self.scores(self.grids_of_layers(layers)), None

    def distances(self, patches: Tensor) -> Tensor:
        """Return the scores of the cells of one image, float32 (cells,)."""
        return self.scores(self.grids(patches))

    @property
    def in_torch(self) -> bool:
        """Whether all of it is operations of torch, which other engines can run."""
        return all(one.bank.in_torch for one in self.depths)

    def grids(self, patches: Tensor) -> list[Tensor]:
        """Return the features of each depth of patches (cells, channels of all layers)."""
        return [one.depth.grid(patches, self.grid_hw) for one in self.depths]

    def grids_of_layers(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """Return the same for averaged layers, float32 (1, C, h, w) each."""
        grids, start = [], 0
        for one in self.depths:
            end = start + len(one.depth.channels)
            grids.append(one.depth.grid_of_layers(layers[start:end], self.grid_hw))
            start = end
        return grids

    def scores(self, grids: Sequence[Tensor]) -> Tensor:
        """Return the scores of the cells for the features of each depth, float32 (cells,)."""
        return self.summed(
            grids, lambda one, rows: one.score(rows, capped=one is not self.depths[0])
        )

    def summed(
        self, grids: Sequence[Tensor], score: Callable[[DepthBank, Tensor], Tensor]
    ) -> Tensor:
        """Return the sum over the depths of a score of their cells, on the grid, (cells,)."""
        total = None
        for one, grid in zip(self.depths, grids, strict=True):
            scores = score(one, rows_of(grid)).reshape(1, 1, *grid.shape[2:])
            scores = resample(scores, self.grid_hw)
            total = scores if total is None else total + scores
        assert total is not None
        return total.flatten()

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that are saved."""
        import torch

        state: dict[str, Tensor] = {}
        for i, one in enumerate(self.depths):
            state |= {f"{i}.{key}": value for key, value in one.bank.state().items()}
            state[f"{i}.scale"] = one.scale
            if one.places is not None:
                state[f"{i}.place_count"] = torch.tensor(one.places.count)
                state[f"{i}.place_mean"] = one.places.mean
                state[f"{i}.place_squares"] = one.places.squares
        return state

    def networks(self) -> list[nn.Module]:
        """Return no networks."""
        return []


def read_places(state: Mapping[str, Tensor], depth: int) -> Places | None:
    """Return the saved moments of a depth, if there are any."""
    if f"{depth}.place_mean" not in state:
        return None
    count, mean, squares = (state[f"{depth}.place_{k}"] for k in ("count", "mean", "squares"))
    return Places(int(count), mean, squares)

"""The memory bank of PatchCore: distances of patches to the nearest good ones."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 256
"""Queries per matrix product, so that its result stays in the processor's cache."""
_PRIOR = 5.0
"""Held-out patches of the mean distance that count for each patch of the bank beside its own."""
WEIGHT = 0.5
"""Share of the power distance's weights that is taken: all of them blur the outlines of defects."""


class MemoryBank:
    """Good patches, ready for search.

    Example:
        >>> import torch
        >>> bank = MemoryBank(torch.tensor([[0.0, 0.0], [0.0, 3.0]]))
        >>> bank.distances(torch.tensor([[4.0, 3.0]])).tolist()
        [4.0]

    Args:
        features: patches before whitening, float16 or float32 (m, d).
        whitening: map that bank and queries are multiplied by, float32 (d, d); None: none.
        pca_dim: principal axes of the bank along which patches are compared; 0: all. Without effect
            on whitened patches, which vary alike along all axes.
        num_neighbors: nearest patches whose mean distance is a patch's score.
        owners: of which image each patch is, (m,); None: not told.
        weights: what is subtracted from the squared distance to each patch, float32 (m,), see
            `weighted`; None: nothing.

    Attributes:
        axes: float32 (d, pca_dim), or None: patches are compared in all dimensions.
    """

    def __init__(
        self,
        features: Tensor,
        whitening: Tensor | None = None,
        *,
        pca_dim: int = 0,
        num_neighbors: int = 1,
        owners: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        self.features, self.whitening, self.owners = features, whitening, owners
        self.weights = weights
        self.num_neighbors = min(num_neighbors, len(features))
        bank = self._whitened(features)
        # Distances stay the same around another origin, and squares keep more digits near it.
        self._origin = bank.mean(dim=0)
        bank = bank - self._origin
        self.axes: Tensor | None = None
        if whitening is None and 0 < pca_dim < features.shape[1]:
            self.axes = principal_axes(bank)[:, :pca_dim].contiguous()
        self._compared = self._along_axes(bank)
        squares = self._compared.square().sum(dim=1)
        self._half_squares = (squares if weights is None else squares - weights) / 2

    @property
    def in_torch(self) -> bool:
        """Whether it is searched by operations of torch, which other engines can run."""
        return True

    def __len__(self) -> int:
        return int(self.features.shape[0])

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that are saved."""
        state = {
            "features": self.features,
            "whitening": self.whitening,
            "owners": self.owners,
            "weights": self.weights,
        }
        return {key: value for key, value in state.items() if value is not None}

    def with_rows(self, rows: Tensor, owners: Tensor) -> MemoryBank:
        """Return a bank with further patches, float (n, d), compared in all dimensions."""
        import torch

        features, known = self._longer(rows, owners)
        weights = self.weights
        if weights is not None:  # of patches like those that the bank was made of
            weights = torch.cat([weights, weights.new_zeros(len(rows))])
        return MemoryBank(
            features,
            self.whitening,
            owners=known,
            weights=weights,
            num_neighbors=self.num_neighbors,
        )

    def weighted(self, patches: Tensor, distances: Tensor) -> MemoryBank:
        """Return the bank with the patches weighted by how good patches vary around them.

        Good patches lie close to some patches of the bank, and far from others. The weight w of a
        patch is half of m² - M², where m is the mean distance of the good patches that it is the
        nearest one of, and M that of all. The power distance d² - w (Aurenhammer, "Power Diagrams",
        SIAM J. Comput. 1987) takes the place of d², which costs a prediction nothing.

        Args:
            patches: number of the nearest patch of good patches that are not in the bank, (n,).
            distances: and how far it is, float32 (n,).
        """
        import torch

        count = torch.zeros_like(self._half_squares)
        count = count.index_add(0, patches, torch.ones_like(distances))
        total = torch.zeros_like(count).index_add(0, patches, distances)
        mean = distances.mean()
        bank = copy(self)
        around = (total + _PRIOR * mean) / (count + _PRIOR)
        bank.weights = WEIGHT * (around.square() - mean.square())
        bank._half_squares = (self._compared.square().sum(dim=1) - bank.weights) / 2
        return bank

    def _longer(self, rows: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        assert self.owners is not None
        return (
            torch.cat([self.features, rows.to(self.features)]),
            torch.cat([self.owners, owners.to(self.owners)]),
        )

    def distances(self, patches: Tensor, *, without: int | None = None) -> Tensor:
        """Return the mean distance of each patch to its nearest patches of the bank.

        Args:
            patches: float32 tensor (n, d), not whitened.
            without: patches of the bank that this image owns do not count, unless all are its own.

        Returns:
            Euclidean distances along `axes`, less the weights, float32 (n,).
        """
        import torch

        compared = self._along_axes(self._whitened(patches) - self._origin)
        bank, half_squares = self._compared, self._half_squares
        counting = self._counting(without)
        if counting is not None:
            bank, half_squares = bank[counting], half_squares[counting]
        starts = range(0, len(compared), _CHUNK)  # not torch.split, which ONNX refuses for one part
        parts = [self._nearest(compared[at : at + _CHUNK], bank, half_squares) for at in starts]
        return torch.cat(parts)

    def nearest(self, patches: Tensor, *, without: int | None = None) -> tuple[Tensor, Tensor]:
        """Return how far the nearest patch of the bank is, and its number.

        Args:
            patches: see `distances`.
            without: see `distances`.

        Returns:
            Euclidean distances, float32 (n,), and numbers, int64 (n,).
        """
        import torch

        compared = self._along_axes(self._whitened(patches) - self._origin)
        counting = self._counting(without)
        bank = self._compared if counting is None else self._compared[counting]
        found = [torch.cdist(part, bank).min(dim=1) for part in torch.split(compared, _CHUNK)]
        numbers = torch.cat([one.indices for one in found])
        distances = torch.cat([one.values for one in found])
        return distances, numbers if counting is None else counting[numbers]

    def _counting(self, without: int | None) -> Tensor | None:
        """Return the numbers of the patches that an image does not own; None: all count."""
        if without is None or self.owners is None:
            return None
        numbers = (self.owners != without).nonzero()[:, 0]
        return numbers if len(numbers) else None

    def _nearest(self, queries: Tensor, bank: Tensor, half_squares: Tensor) -> Tensor:
        import torch

        # Half the squared distance without the query's own square, which orders alike.
        partial = torch.addmm(half_squares, queries, bank.T, alpha=-1.0)
        if self.num_neighbors == 1:  # in a tenth of the time
            smallest = partial.amin(dim=1, keepdim=True)
        else:
            smallest = partial.topk(min(self.num_neighbors, len(bank)), dim=1, largest=False).values
        squares = 2.0 * smallest + queries.square().sum(dim=1, keepdim=True)
        return squares.clamp_min(0.0).sqrt().mean(dim=1)

    def _whitened(self, features: Tensor) -> Tensor:
        return features.float() if self.whitening is None else features.float() @ self.whitening

    def _along_axes(self, centred: Tensor) -> Tensor:
        return centred if self.axes is None else centred @ self.axes


def principal_axes(features: Tensor) -> Tensor:
    """Return the directions in which centred features vary, by falling variance, as columns (d, d).

    Args:
        features: float32 tensor (m, d), centred.
    """
    import torch

    # Not about the mean: the features come centred, and one alone has no covariance.
    products = features.double().T @ features.double()
    axes: Tensor = torch.linalg.eigh(products).eigenvectors
    return axes.flip(1).float().contiguous()

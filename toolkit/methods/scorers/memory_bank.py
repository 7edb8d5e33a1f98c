"""The memory bank of PatchCore: distances of patches to the nearest good ones, and image scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

_CHUNK = 1024
"""Queries per matrix product, which bounds the memory to this many times the bank's length."""


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
        num_reweight_neighbors: neighbours that reweight the image score; 0 or 1: none.
        image_score: `max` (the reweighted largest distance), or what the map gives.

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
        num_reweight_neighbors: int = 0,
        image_score: Literal["max", "top_1_percent"] = "max",
    ) -> None:
        self.features, self.whitening = features, whitening
        self.num_neighbors = min(num_neighbors, len(features))
        self.num_reweight_neighbors = min(num_reweight_neighbors, len(features))
        self.image_score = image_score
        bank = self._whitened(features)
        # Distances stay the same around another origin, and squares keep more digits near it.
        self._origin = bank.mean(dim=0)
        self._bank = bank - self._origin
        self.axes: Tensor | None = None
        if whitening is None and 0 < pca_dim < features.shape[1]:
            self.axes = principal_axes(self._bank)[:, :pca_dim].contiguous()
        self._compared = self._along_axes(self._bank)
        self._half_squares = self._compared.square().sum(dim=1) / 2

    def __len__(self) -> int:
        return int(self.features.shape[0])

    def __call__(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the distances of the cells, and the image score; see `Head`."""
        queries = self.centred(patches)
        distances = self._search(queries)
        if self.image_score != "max":
            return distances, None
        return distances, self.reweighted(queries[distances.argmax()], self.num_reweight_neighbors)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that are saved."""
        whitening = {} if self.whitening is None else {"whitening": self.whitening}
        return {"features": self.features, **whitening}

    def networks(self) -> list[nn.Module]:
        """Return no networks."""
        return []

    def centred(self, patches: Tensor) -> Tensor:
        """Return patches whitened and moved to the bank's origin, float32 (n, d)."""
        return self._whitened(patches) - self._origin

    def distances(self, patches: Tensor) -> Tensor:
        """Return the mean distance of each patch to its nearest patches of the bank.

        Args:
            patches: float32 tensor (n, d), not whitened.

        Returns:
            Euclidean distances along `axes`, float32 (n,).
        """
        return self._search(self.centred(patches))

    def reweighted(self, query: Tensor, num_neighbors: int) -> Tensor:
        """Return the image score of PatchCore's equation 7, in all dimensions.

        The distance counts less where the nearest feature of the bank is far from its own
        neighbours in the bank, as rare but good patches are.

        Args:
            query: the patch with the largest distance, float32 (d,), of `centred`.
            num_neighbors: neighbours of its nearest feature that count; 0 or 1 leaves the distance
                as it is.

        Returns:
            float32 (1,).
        """
        squares = (self._bank - query).square().sum(dim=1)
        nearest = squares.argmin().reshape(1)
        distance = squares[nearest].sqrt()
        if num_neighbors < 2:
            return distance
        apart = (self._bank - self._bank[nearest]).square().sum(dim=1)
        near = apart.topk(num_neighbors, largest=False).indices
        # Softmax is the formula's quotient of exponentials without their overflow. A feature is its
        # own first neighbour, so the smallest distance is that to the nearest feature.
        weight = 1.0 - squares[near].sqrt().softmax(dim=0).min()
        return distance * weight

    def _search(self, queries: Tensor) -> Tensor:
        import torch

        compared = self._along_axes(queries)
        starts = range(0, len(compared), _CHUNK)  # not torch.split, which ONNX refuses for one part
        return torch.cat([self._search_chunk(compared[at : at + _CHUNK]) for at in starts])

    def _search_chunk(self, queries: Tensor) -> Tensor:
        import torch

        # Half the squared distance without the query's own square, which orders alike.
        partial = torch.addmm(self._half_squares, queries, self._compared.T, alpha=-1.0)
        if self.num_neighbors == 1:  # in a tenth of the time
            smallest = partial.amin(dim=1, keepdim=True)
        else:
            smallest = partial.topk(self.num_neighbors, dim=1, largest=False).values
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

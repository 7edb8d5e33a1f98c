"""A memory bank of millions of patches, searched through an index of faiss.

The index (IVF-PQ) proposes a few patches for each query, from the cells of the space around it and
by compressed codes; the distance to these is then computed exactly. Jégou, Douze and Schmid,
"Product Quantization for Nearest Neighbor Search", TPAMI 2011.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import MissingExtraError
from toolkit.methods.scorers.memory_bank import MemoryBank

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

LEAST = 50_000
"""Patches from which an index pays: with 10,000 it is slower than an exact search."""
_PROPOSED = 16  # patches per query whose distance is computed
_PROBES = 16  # cells that are searched per query
_DIMENSIONS_PER_CODE = 4
_CODE_BITS = 8
_TRAINED_ON = 100_000
_GATHERED = 128  # queries whose proposed patches are in memory at a time
_CHUNK = 2_048  # rows that are in float32 at a time


class IndexedBank(MemoryBank):
    """Good patches behind an index; all dimensions are compared.

    Beside the features as they are saved there are only the codes of the index: a quarter of a
    byte per dimension. Its patches are so many that they are not weighted.

    Args:
        features: patches before whitening, float16 or float32 (m, d).
        whitening: see `MemoryBank`.
        index: of the whitened patches, in the same order, as `state` returns it; made if None.
        num_neighbors: see `MemoryBank`.
        owners: see `MemoryBank`.

    Raises:
        MissingExtraError: faiss is not installed.
    """

    def __init__(
        self,
        features: Tensor,
        whitening: Tensor | None = None,
        *,
        index: Tensor | None = None,
        num_neighbors: int = 1,
        owners: Tensor | None = None,
    ) -> None:
        faiss = import_faiss()
        self.features, self.whitening, self.owners = features, whitening, owners
        self.num_neighbors = min(num_neighbors, len(features))
        self.axes = self.weights = None
        self._index = (
            self._learned(faiss) if index is None
            else faiss.deserialize_index(index.cpu().numpy())
        )  # fmt: skip

    @property
    def in_torch(self) -> bool:
        """Return False: faiss searches."""
        return False

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that are saved."""
        import torch

        serialized = import_faiss().serialize_index(self._index)
        return {**super().state(), "index": torch.from_numpy(serialized)}

    def with_rows(self, rows: Tensor, owners: Tensor) -> IndexedBank:
        """Return a bank with further patches, whose index is not learned again."""
        import torch

        faiss = import_faiss()
        features, known = self._longer(rows, owners)
        index = faiss.clone_index(self._index)
        index.add(self._compared_rows(rows.to(self.features)))
        return IndexedBank(
            features,
            self.whitening,
            index=torch.from_numpy(faiss.serialize_index(index)),
            num_neighbors=self.num_neighbors,
            owners=known,
        )

    def distances(self, patches: Tensor, *, without: int | None = None) -> Tensor:
        """Return the mean distance of each patch to its nearest patches of the bank.

        Among those that the index proposes; see `MemoryBank.distances`.
        """
        import torch

        allowed = None
        if without is not None and self.owners is not None:
            others = (self.owners != without).cpu().numpy()
            allowed = others if others.any() else None
        parts = []
        for start in range(0, len(patches), _CHUNK):
            queries = patches[start : start + _CHUNK]
            numbers = torch.from_numpy(self.proposed(queries, allowed)).to(self.features.device)
            distances = self._exact(queries, numbers)
            nothing = (numbers < 0).all(dim=1)
            if bool(nothing.any()):  # no cell around the query holds a patch that counts
                distances[nothing] = self._of_all(queries[nothing], allowed)
            parts.append(distances)
        return torch.cat(parts)

    def nearest(self, patches: Tensor, *, without: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the distances alone; the numbers, which only `weighted` needs, are all 0."""
        import torch

        distances = self.distances(patches, without=without)
        return distances, torch.zeros_like(distances, dtype=torch.int64)

    def weighted(self, patches: Tensor, distances: Tensor) -> IndexedBank:
        """Return the bank as it is."""
        del patches, distances
        return self

    def proposed(
        self, patches: Tensor, allowed: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Return the numbers of the patches that the index proposes, int64 (n, k); -1: none.

        Args:
            patches: float32 tensor (n, d), not whitened.
            allowed: which patches of the bank count, bool array (m,); None: all.
        """
        faiss = import_faiss()
        options: dict[str, Any] = {"nprobe": min(_PROBES, self._index.nlist)}
        if allowed is not None:
            options["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        found: NDArray[np.int64] = self._index.search(
            self._compared_rows(patches),
            max(_PROPOSED, self.num_neighbors),
            params=faiss.SearchParametersIVF(**options),
        )[1]
        return found

    def _exact(self, patches: Tensor, numbers: Tensor) -> Tensor:
        """Return the mean of the smallest distances of patches to patches of the bank, (n,)."""
        import torch

        parts = []
        for at in range(0, len(patches), _GATHERED):
            queries, own = patches[at : at + _GATHERED], numbers[at : at + _GATHERED]
            near = self.features[own.clamp_min(0)].float() - queries[:, None].float()
            squares = self._whitened(near).square().sum(dim=2)
            squares = squares.masked_fill(own < 0, math.inf)
            smallest = squares.topk(self.num_neighbors, dim=1, largest=False).values.sqrt()
            there = ~smallest.isinf()  # fewer may be proposed; a NaN stays one
            parts.append(smallest.where(there, 0.0).sum(dim=1) / there.sum(dim=1).clamp_min(1))
        return torch.cat(parts)

    def _of_all(self, patches: Tensor, allowed: NDArray[np.bool_] | None) -> Tensor:
        features = self.features if allowed is None else self.features[allowed]
        bank = MemoryBank(features, self.whitening, num_neighbors=self.num_neighbors)
        return bank.distances(patches)

    def _learned(self, faiss: Any) -> Any:
        count, dimensions = self.features.shape
        generator = np.random.default_rng(0)
        drawn = np.sort(generator.permutation(count)[:_TRAINED_ON])
        cells = 2 ** round(math.log2(math.sqrt(count)))
        codes = math.ceil(dimensions / _DIMENSIONS_PER_CODE)
        padded = codes * _DIMENSIONS_PER_CODE
        index = faiss.IndexIVFPQ(faiss.IndexFlatL2(padded), padded, cells, codes, _CODE_BITS)
        index.train(self._compared_rows(self.features[drawn]))
        for start in range(0, count, _CHUNK):
            index.add(self._compared_rows(self.features[start : start + _CHUNK]))
        return index

    def _compared_rows(self, rows: Tensor) -> NDArray[np.float32]:
        """Return whitened rows with zeros behind them, so that codes divide the dimensions."""
        compared = self._whitened(rows).cpu().numpy()
        short = -compared.shape[1] % _DIMENSIONS_PER_CODE
        return np.ascontiguousarray(np.pad(compared, ((0, 0), (0, short))), np.float32)


def pays(patches: int, say: Callable[[str], object]) -> bool:
    """Return whether a bank has so many patches that an index pays; if not, report it."""
    if patches < LEAST:
        say(f"index ivf-pq: {patches} patches are searched exactly; it pays from {LEAST} on")
    return patches >= LEAST


def import_faiss() -> Any:
    """Return the module.

    Raises:
        MissingExtraError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss", extra="faiss", purpose="use --index ivf-pq") from error
    return faiss

"""The search in a bank as part of an ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from toolkit.methods.patchcore.bank import MemoryBank
    from toolkit.methods.patchcore.settings import PatchCoreSettings


class BankHead(nn.Module):
    """From patch features to their distances and the reweighted image score.

    Args:
        bank: good patches.
        settings: of the search and the score.
    """

    def __init__(self, bank: MemoryBank, settings: PatchCoreSettings) -> None:
        super().__init__()
        self.features: Tensor
        self.whitening: Tensor
        self.origin: Tensor
        self._settings = settings
        self.axes: Tensor
        self.along_axes: Tensor
        features = bank.features - bank.origin
        axes = torch.eye(features.shape[1]) if bank.axes is None else bank.axes
        self._all_axes = bank.axes is None
        self.register_buffer("origin", bank.origin)
        self.register_buffer("features", features)
        self.register_buffer("whitening", bank.whitening)
        self.register_buffer("axes", axes)
        self.register_buffer("along_axes", features @ axes)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return distances (cells,) and the image's score (1,), or None: that of the map."""
        queries = patches @ self.whitening - self.origin
        compared = queries if self._all_axes else queries @ self.axes
        distances = _distances(compared, self.along_axes)
        count = min(self._settings.neighbours, len(self.features))
        cells = distances.topk(count, dim=1, largest=False).values.mean(dim=1)
        raised = self.raised(queries)
        cells = cells * raised
        if self._settings.image_score != "max":
            return cells, None
        top = cells.argmax()
        score = self._reweighted(queries[top]) * raised[top]
        return cells, score.reshape(1)

    def raised(self, queries: Tensor) -> Tensor:
        """Return the factor of each distance, (cells,)."""
        return torch.ones(len(queries))

    def _reweighted(self, query: Tensor) -> Tensor:
        squares = (self.features - query).square().sum(dim=1)
        nearest = squares.argmin()
        distance = squares[nearest].sqrt()
        count = min(self._settings.reweight, len(self.features))
        if count < 2:
            return distance
        apart = (self.features - self.features[nearest]).square().sum(dim=1)
        near = apart.topk(count, largest=False).indices
        around = (self.features[near] - query).square().sum(dim=1).sqrt()
        return distance * (1.0 - torch.softmax(around, dim=0).min())


class DefectsHead(BankHead):
    """Raises distances near patches of known defects, as PatchCore+ does.

    Args:
        bank: good patches.
        settings: of the search and the score.
        defects: patches of defects, whitened, float32 (n, d).
        scale: distance at which a defect's influence has fallen to 1/e.
        boost: by how much the distance of a defect's own patch is raised.
    """

    def __init__(
        self,
        bank: MemoryBank,
        settings: PatchCoreSettings,
        defects: Tensor,
        *,
        scale: float,
        boost: float,
    ) -> None:
        super().__init__(bank, settings)
        self.defects: Tensor
        self._scale, self._boost = scale, boost
        self.register_buffer("defects", defects - self.origin)

    def raised(self, queries: Tensor) -> Tensor:
        """Return the factor of each distance, (cells,)."""
        near = _distances(queries, self.defects).amin(dim=1)
        return 1.0 + self._boost * torch.exp(-near / self._scale)


def _distances(queries: Tensor, features: Tensor) -> Tensor:
    squares = queries.square().sum(dim=1, keepdim=True) + features.square().sum(dim=1)
    return (squares - 2.0 * queries @ features.T).clamp_min(0.0).sqrt()

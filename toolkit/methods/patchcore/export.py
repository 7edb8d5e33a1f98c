"""PatchCore as ONNX: feature extractor, search and image score in one graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.data.images import read_rgb
from toolkit.files import write_text
from toolkit.methods.onnx_graph import write_graph
from toolkit.runs.export import Exported

if TYPE_CHECKING:
    from toolkit.data.types import Sample
    from toolkit.methods.features.extractor import FeatureExtractor
    from toolkit.methods.patchcore.bank import MemoryBank
    from toolkit.methods.patchcore.settings import PatchCoreSettings

_TOLERANCE = 1e-2
"""Of distances, which are of the order of 1 to 10 between whitened patches."""


class _Graph(nn.Module):
    """From resized pixels to the distances of all cells, and the reweighted image score."""

    def __init__(
        self, bank: MemoryBank, extractor: FeatureExtractor, settings: PatchCoreSettings
    ) -> None:
        super().__init__()
        self.features: Tensor
        self.whitening: Tensor
        self.origin: Tensor
        self.network = extractor.backbone.network
        self._extractor, self._settings = extractor, settings
        origin = bank.features.mean(dim=0)
        self.register_buffer("origin", origin)
        self.register_buffer("features", bank.features - origin)
        self.register_buffer("whitening", bank.whitening)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        extractor, settings = self._extractor, self._settings
        maps = extractor.backbone.maps(extractor.normalised(pixels))
        patches = extractor.aligned(maps) @ self.whitening - self.origin
        distances = self._distances(patches)
        count = min(settings.neighbours, len(self.features))
        cells = distances.topk(count, dim=1, largest=False).values.mean(dim=1)
        top = cells.argmax()
        score = self._reweighted(patches[top], distances[top])
        return cells.reshape(extractor.grid_hw), score.reshape(1)

    def _distances(self, queries: Tensor) -> Tensor:
        squares = queries.square().sum(dim=1, keepdim=True) + self.features.square().sum(dim=1)
        return (squares - 2.0 * queries @ self.features.T).clamp_min(0.0).sqrt()

    def _reweighted(self, query: Tensor, distances: Tensor) -> Tensor:
        nearest = distances.argmin()
        distance = (self.features[nearest] - query).square().sum().sqrt()
        count = min(self._settings.reweight, len(self.features))
        if count < 2:
            return distance
        apart = (self.features - self.features[nearest]).square().sum(dim=1)
        near = apart.topk(count, largest=False).indices
        around = (self.features[near] - query).square().sum(dim=1).sqrt()
        return distance * (1.0 - torch.softmax(around, dim=0).min())


def export_onnx(
    bank: MemoryBank,
    extractor: FeatureExtractor,
    settings: PatchCoreSettings,
    out: Path,
    samples: Sequence[Sample],
) -> Exported:
    """Write `model.onnx` and `model.json`, and compare both outputs with the run's.

    Input `pixels`: float32 (1, 3, side, side), RGB from 0 to 255, resized to the square. Output
    `cells`: float32 (rows, columns), the distance of each patch, to be spread over the image and
    smoothed; `score`: float32 (1,), the reweighted maximum.

    Args:
        bank: of the run.
        extractor: that made it, on the CPU.
        settings: of the run.
        out: the folder.
        samples: images on which both are compared.

    Raises:
        MissingExtraError: ONNX is not installed.
        DataError: an image cannot be read.
    """
    side = extractor.image_size
    session = write_graph(
        _Graph(bank, extractor, settings).eval(),
        {"pixels": torch.zeros(1, 3, side, side)},
        ["cells", "score"],
        out / "model.onnx",
    )
    about = {
        "input": {"name": "pixels", "shape": [1, 3, side, side], "range": [0, 255], "order": "RGB"},
        "outputs": {"cells": list(extractor.grid_hw), "score": [1]},
        "smoothing_sigma": settings.sigma,
        "image_score": settings.image_score,
    }
    write_text(out / "model.json", json.dumps(about, indent=2) + "\n")
    difference = 0.0
    for sample in samples:
        image = read_rgb(sample.image)
        pixels = extractor.resized(image).transpose(2, 0, 1)[None].astype(np.float32)
        cells, score = session.run(["cells", "score"], {"pixels": pixels})
        patches = extractor(image) @ bank.whitening
        true = bank.distances(patches, settings.neighbours)
        wanted = bank.reweighted(patches[int(true.argmax())], settings.reweight)
        apart = np.abs(cells.ravel() - true.numpy()).max()
        difference = max(difference, float(apart), abs(float(score[0]) - wanted))
    return Exported(
        files=("model.onnx", "model.json"),
        max_difference=difference,
        tolerance=_TOLERANCE,
        checked=f"cells and scores of {len(samples)} images",
    )

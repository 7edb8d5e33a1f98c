"""Export a scorer as ONNX: from pixels to anomaly map and image score in one graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from toolkit.data.images import read_rgb
from toolkit.files import write_text
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.base import Exported
from toolkit.methods.features.anomaly_map import gaussian, resample
from toolkit.methods.onnx_graph import write_graph

if TYPE_CHECKING:
    from toolkit.data.types import Sample
    from toolkit.methods.features.predictor import ScorerPredictor

_TOLERANCE = 1e-3
"""Largest difference that passes, as a share of the highest score of a map."""
_OUTPUTS = ("cells", "anomaly_map", "score")


class CellScores(nn.Module):
    """From resized pixels to the scores of the cells, and of the image where the head has one.

    Args:
        predictor: of the run, on the CPU.
    """

    def __init__(self, predictor: ScorerPredictor) -> None:
        super().__init__()
        self.network = predictor.extractor.backbone.network
        self._extractor, self._head = predictor.extractor, predictor.head

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return cells (rows, columns) and score (1,) of an image, uint8 (1, side, side, 3)."""
        cells, score = self.scored(image.permute(0, 3, 1, 2).float())
        return (cells,) if score is None else (cells, score.reshape(1))

    def scored(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return cells and score of pixels, float32 (1, 3, side, side) from 0 to 255."""
        extractor = self._extractor
        maps = extractor.backbone.feature_maps(extractor.normalised(pixels))
        scores, score = self._head(extractor.aligned(maps))
        return scores.reshape(extractor.grid_hw), score


class PixelScores(CellScores):
    """From resized pixels to the scores of cells, pixels and image.

    Args:
        predictor: of the run, on the CPU.
    """

    def __init__(self, predictor: ScorerPredictor) -> None:
        super().__init__(predictor)
        self.kernel: Tensor
        self._settings = predictor.settings
        self.register_buffer("kernel", torch.from_numpy(gaussian(self._settings.sigma)))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return cells (rows, columns), anomaly map (side, side) and score (1,)."""
        cells, score = self.scored(pixels)
        side = self._extractor.image_size
        anomaly_map = self._smooth(resample(cells[None, None], (side, side)))[0, 0]
        if score is None:
            score = self._score_of(anomaly_map)
        return cells, anomaly_map, score

    def _smooth(self, anomaly_map: Tensor) -> Tensor:
        border = len(self.kernel) // 2
        padded = pad(anomaly_map, (border, border, border, border), mode="reflect")
        columns = conv2d(padded, self.kernel[None, None, :, None])
        return conv2d(columns, self.kernel[None, None, None, :])

    def _score_of(self, anomaly_map: Tensor) -> Tensor:
        values = anomaly_map.flatten()
        share = 1 / len(values) if self._settings.image_score == "max" else 0.01
        return values.topk(max(1, round(share * len(values)))).values.mean().reshape(1)


def export_scorer(predictor: ScorerPredictor, out: Path, samples: Sequence[Sample]) -> Exported:
    """Write `model.onnx` and `model.json`, and compare the graph's outputs with the run's.

    Input `pixels`: float32 (1, 3, side, side), RGB from 0 to 255, resized to the square. Outputs
    `cells`: float32 (rows, columns), scores of the patches; `anomaly_map`: float32 (side, side),
    smoothed; `score`: float32 (1,).

    Args:
        predictor: of the run, on the CPU.
        out: the folder.
        samples: images on which both are compared.

    Raises:
        MissingExtraError: ONNX is not installed.
        DataError: an image cannot be read.
    """
    extractor, settings = predictor.extractor, predictor.settings
    side = extractor.image_size
    session = write_graph(
        PixelScores(predictor).eval(),
        {"pixels": torch.zeros(1, 3, side, side)},
        _OUTPUTS,
        out / "model.onnx",
    )
    about = {
        "input": {"name": "pixels", "shape": [1, 3, side, side], "range": [0, 255], "order": "RGB"},
        "outputs": {"cells": list(extractor.grid_hw), "anomaly_map": [side, side], "score": [1]},
        "smoothing_sigma": settings.sigma,
        "image_score": settings.image_score,
    }
    write_text(out / "model.json", json.dumps(about, indent=2) + "\n")
    difference = highest = 0.0
    for sample, wanted in zip(samples, predict_samples(predictor, samples), strict=True):
        image = extractor.resized(read_rgb(sample.image))
        pixels = image.transpose(2, 0, 1)[None].astype(np.float32)
        anomaly_map, score = session.run(["anomaly_map", "score"], {"pixels": pixels})
        wanted_map = np.asarray(wanted.anomaly_map)
        apart = [np.abs(anomaly_map - wanted_map).max(), abs(float(score[0]) - wanted.score)]
        # Not `max`, which would pass over what is not a number.
        difference = float(np.max([difference, *apart]))
        highest = max(highest, float(np.abs(wanted_map).max()))
    return Exported(
        files=("model.onnx", "model.json"),
        max_difference=difference,
        tolerance=_TOLERANCE * highest,
        checked=f"anomaly maps and scores of {len(samples)} images",
    )

"""A scorer as one network for engines: from the resized image to the scores of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from toolkit.methods.features.head import scores_of

if TYPE_CHECKING:
    from toolkit.methods.features.predictor import ScorerPredictor


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
        """Return cells (rows, columns) and score (1,) of an image, uint8 (1, height, width, 3)."""
        extractor = self._extractor
        pixels = image.permute(0, 3, 1, 2).float()
        maps = extractor.backbone.feature_maps(extractor.normalised(pixels))
        scores, score = scores_of(self._head, extractor, maps)
        cells = scores.reshape(extractor.grid_hw)
        return (cells,) if score is None else (cells, score.reshape(1))

"""The student's error as part of an ONNX graph."""

from __future__ import annotations

from torch import Tensor, nn

from toolkit.methods.feature_autoencoder.method import rebuilding_error
from toolkit.methods.features.training import Whitened


class FeatureAutoencoderHead(nn.Module):
    """From patch features to the errors of rebuilding them.

    Args:
        whitened: centres and whitens features.
        network: the student.
        grid_hw: rows and columns of cells.
    """

    def __init__(self, whitened: Whitened, network: nn.Module, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self._whitened, self._grid_hw = whitened, grid_hw

    def forward(self, patches: Tensor) -> tuple[Tensor, None]:
        """Return errors (cells,); the image's score is the map's."""
        error = rebuilding_error(self.network, self._whitened(patches), self._grid_hw)
        return error.flatten(), None

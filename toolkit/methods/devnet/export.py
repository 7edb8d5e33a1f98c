"""The scorer of patches as part of an ONNX graph."""

from __future__ import annotations

from torch import Tensor, nn

from toolkit.methods.devnet.network import image_scores
from toolkit.methods.features.training import Whitened


class ScorerHead(nn.Module):
    """From patch features to their scores, and the mean of the highest as the image's.

    Args:
        whitened: centres and whitens features.
        scorer: of whitened features.
        top: share of the patches whose mean score is the image's.
    """

    def __init__(self, whitened: Whitened, scorer: nn.Module, top: float) -> None:
        super().__init__()
        self.scorer = scorer
        self._whitened, self._top = whitened, top

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (cells,) and the image's score (1,)."""
        scores = self.scorer(self._whitened(patches))[:, 0]
        return scores, image_scores(scores[None], self._top)

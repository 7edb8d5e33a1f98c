"""What a scorer has learned: from the features of an image to scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from toolkit.methods.features.extractor import FeatureExtractor


class Head(Protocol):
    """What a scorer has learned: from patch features to scores."""

    def __call__(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the scores of the cells, and the image score.

        Args:
            patches: float32 tensor (cells, channels), row by row.

        Returns:
            Scores, float32 (cells,), higher is worse; and the image score, float32 (1,), or None
            where it is taken from the anomaly map.
        """

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that are saved in the run, by name."""

    def networks(self) -> list[nn.Module]:
        """Return the networks that it runs, whose parameters count."""


@runtime_checkable
class LayersHead(Protocol):
    """A head that takes the layers apart, which saves bringing all to one grid."""

    def of_layers(self, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return what the head returns for the patch features of the same image.

        Args:
            layers: averaged over neighbourhoods, float32 (1, C, h, w) each.
        """


def scores_of(
    head: Head, extractor: FeatureExtractor, maps: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Return a head's scores for the layers' outputs of an image; see `Head`."""
    if isinstance(head, LayersHead):
        return head.of_layers(extractor.averaged(maps))
    return head(extractor.aligned(maps))

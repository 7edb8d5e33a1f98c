"""PaDiM's distances as part of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from toolkit.methods.padim.method import mahalanobis


class GaussiansHead(nn.Module):
    """From patch features to distances from the good ones at each place.

    Args:
        state: what was learnt, by name.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            self.register_buffer(name, tensor)

    def forward(self, patches: Tensor) -> tuple[Tensor, None]:
        """Return distances (cells,); the image's score is the map's."""
        return mahalanobis(patches, **dict(self.named_buffers())), None

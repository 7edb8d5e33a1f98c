"""The image encoder as it is run but not stored: batch norms inside the convolutions before them.

Outside of training a batch norm is a factor and a shift per channel, which its convolution can
carry. What MobileSAM spends on its 27 batch norms, a seventh of all, is then saved.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


def for_encoding(sam: Sam) -> Sam:
    """Return a SAM whose encoder says the same up to rounding, with no batch norm of its own.

    Everything else is shared; so is an encoder without batch norms. Later changes of the given
    model's encoder are not seen.
    """
    if not _pairs(sam.image_encoder):
        return sam
    encoder = copy.deepcopy(sam.image_encoder).eval()
    for module, convolution, norm in _pairs(encoder):
        module.c, module.bn = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    other = copy.copy(sam)
    other._modules = {**sam._modules, "image_encoder": encoder}
    return other


def _pairs(encoder: nn.Module) -> list[tuple[nn.Module, nn.Conv2d, nn.BatchNorm2d]]:
    """Return TinyViT's modules that are a convolution `c` and a batch norm `bn`, and these."""
    found = []
    for module in encoder.modules():
        convolution, norm = getattr(module, "c", None), getattr(module, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            found.append((module, convolution, norm))
    return found

"""Low-rank adaptation of the image encoder's attention.

Hu et al. 2021, "LoRA": a frozen matrix W learns as W + B A, with B zero at the start, so that
training begins at the untouched model. Only A and B are kept; loading them adds the product to W,
and what comes out is a plain SAM again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.errors import WeightsError

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

_RANK = 4
_ADAPTED = "qkv"
"""Name of the joint projection to queries, keys and values, in TinyViT and in Meta's ViT."""
_A, _B = ".lora_a", ".lora_b"


class LoraLinear(nn.Module):
    """A frozen linear layer with a low-rank addition that learns.

    Args:
        linear: the layer; its parameters are frozen.
        rank: of the addition.
    """

    def __init__(self, linear: nn.Linear, rank: int = _RANK) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        device = linear.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, linear.in_features, device=device))
        self.lora_b = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Apply layer and addition to (..., in_features)."""
        added = functional.linear(functional.linear(x, self.lora_a), self.lora_b)
        out: Tensor = self.linear(x) + added
        return out


def add_lora(sam: Sam) -> None:
    """Put an addition on every attention projection of the image encoder, in place.

    Raises:
        WeightsError: the encoder has no such layer.
    """
    found = [
        (parent, layer)
        for parent in sam.image_encoder.modules()
        for name, layer in parent.named_children()
        if name == _ADAPTED and isinstance(layer, nn.Linear)
    ]
    if not found:
        raise WeightsError(f"--train lora: this image encoder has no layer named {_ADAPTED}")
    for parent, layer in found:
        setattr(parent, _ADAPTED, LoraLinear(layer))


def lora_layers(sam: Sam) -> list[LoraLinear]:
    """Return the layers that have an addition; empty without any."""
    return [layer for layer in sam.image_encoder.modules() if isinstance(layer, LoraLinear)]


def lora_state(sam: Sam) -> dict[str, Tensor]:
    """Return the additions by their names in `sam.state_dict()`."""
    return {name: t for name, t in sam.state_dict().items() if name.endswith((_A, _B))}


@torch.no_grad()
def merge_lora(sam: Sam, state: Mapping[str, Tensor]) -> None:
    """Add stored additions to the encoder's own weights, or put them back where they are learnt.

    Raises:
        KeyError: a layer is not there, or half of an addition is missing.
        RuntimeError: the shapes differ.
    """
    modules = dict(sam.named_modules())
    for name in [n.removesuffix(_A) for n in state if n.endswith(_A)]:
        a, b, layer = state[name + _A], state[name + _B], modules[name]
        if isinstance(layer, LoraLinear):
            layer.lora_a.copy_(a)
            layer.lora_b.copy_(b)
        elif isinstance(layer, nn.Linear):
            layer.weight.add_((b @ a).to(layer.weight))

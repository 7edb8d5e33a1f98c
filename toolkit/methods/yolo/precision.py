"""Training in bfloat16 on CPUs that multiply it natively; losses and weights stay in float32.

Imports torch, so it is imported inside functions or beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.errors import ConfigError


class InBfloat16(nn.Module):
    """Stands around a network as `DistributedDataParallel` does, which Ultralytics unwraps.

    Only the network's forward pass is in bfloat16. The loss gets float32: with 8 bits of mantissa
    a box edge would move in steps of a quarter of a cell.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Any]) -> Any:
        """Return the loss of a batch, as the network itself does."""
        network: Any = self.module
        texts = {"txt_feats": batch["txt_feats"]} if "txt_feats" in batch else {}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predictions = network.predict(batch["img"], **texts)
        return network.loss(batch, _in_float32(predictions))


def _in_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _in_float32(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_in_float32(item) for item in value)
    return value


def use_bfloat16(precision: str, *, device: str) -> bool:
    """Decide the setting `precision` for a device.

    Args:
        precision: `auto`, `float32` or `bfloat16`.
        device: as torch names it.

    Raises:
        ConfigError: bfloat16 was asked for on another device than a CPU.
    """
    if precision == "bfloat16" and device != "cpu":
        raise ConfigError(
            f"precision=bfloat16: is for CPUs, not {device}; on a GPU give extra amp=true"
        )
    return precision == "bfloat16" or (precision == "auto" and device == "cpu" and _is_native())


def _is_native() -> bool:
    # Not public, and not in every version; without it training is exact and slower.
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return probe is not None and bool(probe())

"""The image encoder: run faster than it is stored, in torch or in an inference engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from toolkit.data.images import read_rgb
from toolkit.data.types import Sample
from toolkit.methods.base import Graph, Outputs, SharedNetwork
from toolkit.methods.sam.batched_decoder import decode
from toolkit.methods.sam.evaluate import region_ious
from toolkit.methods.sam.targets import Target, region_targets
from toolkit.methods.sam.tta import WHOLE, View
from toolkit.runs.environment import computes_bfloat16
from toolkit.runtime.prompts import box_prompt
from toolkit.runtime.segmentation import INPUT_SIZE, sam_input

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

    from toolkit.methods.base import Engine

_SHAPE = (256, 64, 64)
_PARITY_IMAGES = 4
_TOLERANCE = 0.005
"""What an engine may lose in IoU."""


class Encoder:
    """SAM's image encoder, in torch or in an inference engine.

    Args:
        sam: the model, frozen.
        engine: runs `encoder_graph`; None for torch, in bfloat16 where that is native.
        name: of engine and precision.

    Attributes:
        name: what it runs in, such as `openvino bfloat16`.
        precision: what torch would compute in.
    """

    def __init__(self, sam: Sam, engine: Engine | None = None, name: str = "") -> None:
        self._sam, self._engine = fuse_encoder(sam) if engine is None else sam, engine
        self.precision = "bfloat16" if computes_bfloat16(sam.device) else "float32"
        self.name = name if engine is not None else f"torch {self.precision}"

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """Encode one RGB image (H, W, 3).

        Returns:
            float16 tensor (256, 64, 64) on the model's device.
        """
        pixels = sam_input(image)
        if self._engine is not None:
            return torch.from_numpy(self._engine(pixels)[0][0]).half().to(self._sam.device)
        device = self._sam.device
        bfloat16 = self.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            found: Tensor = _from_input(self._sam, torch.from_numpy(pixels).to(device))[0]
        return found.half()


def _from_input(sam: Sam, pixels: Tensor) -> Tensor:
    """Encode what `sam_input` returns; padding is zero after the normalisation, as SAM wants it."""
    channels = pixels.permute(0, 3, 1, 2).float()
    image = (channels[:, :3] - sam.pixel_mean) / sam.pixel_std * (channels[:, 3:] / 255)
    found: Tensor = sam.image_encoder(image)
    return found


def encoder_graph(
    sam: Sam, encoder_sha256: str, samples: Callable[[], Sequence[Sample]] = tuple
) -> Graph:
    """Return the image encoder for inference engines; all runs with this encoder share it.

    Engines are compared by the mean IoU of the masks that the decoder makes of true boxes; without
    samples, by the mean Jaccard distance of masks on noise.

    Args:
        sam: the model.
        encoder_sha256: hash of its image encoder.
        samples: returns defective samples to compare on; the first ones are taken.
    """
    fused = fuse_encoder(sam)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sam = fused

        def forward(self, image: Tensor) -> tuple[Tensor]:
            return (_from_input(self.sam, image),)

    targets: list[Target] = []

    def inputs() -> list[tuple[NDArray[np.uint8]]]:
        targets[:] = region_targets(samples()[:_PARITY_IMAGES])
        images = [read_rgb(path) for path in dict.fromkeys(t.sample.image for t in targets)]
        if not images:
            draw = np.random.default_rng(0)
            images = [draw.integers(0, 256, (320, 320, 3), np.uint8) for _ in range(2)]
        return [(sam_input(image),) for image in images]

    def distance(found: Sequence[Outputs], expected: Sequence[Outputs]) -> float:
        if not targets:
            return _jaccard_distance(sam, found, expected)
        paths = list(dict.fromkeys(target.sample.image for target in targets))
        means = []
        for outputs in (found, expected):
            given = _Given({path: one[0] for path, one in zip(paths, outputs, strict=True)})
            means.append(np.mean([region_ious(sam, given, t, ["box"])[0] for t in targets]))
        return float(means[1] - means[0])

    shared = SharedNetwork(
        encoder_sha256, inputs, distance, _TOLERANCE, "mean IoU of masks under true boxes"
    )
    example = np.zeros((1, INPUT_SIZE, INPUT_SIZE, 4), np.uint8)
    return Graph(Network().eval(), {"image": example}, ("embedding",), shared=shared)


@dataclass(frozen=True)
class _Given:
    """Embeddings (1, 256, 64, 64) that are there, by image."""

    outputs: Mapping[Path, NDArray[np.float32]]

    def get(self, sample: Sample, view: View = WHOLE, /) -> Tensor:
        return torch.from_numpy(self.outputs[sample.image][0])


@torch.no_grad()
def _jaccard_distance(sam: Sam, found: Sequence[Outputs], expected: Sequence[Outputs]) -> float:
    """Return the mean distance of masks of a box in the middle.

    It is a metric, so that no mean IoU with any truth differs by more.
    """
    prompt = box_prompt((INPUT_SIZE / 4, INPUT_SIZE / 4, 3 * INPUT_SIZE / 4, 3 * INPUT_SIZE / 4))
    apart = []
    for pair in zip(found, expected, strict=True):
        decoded = [decode(sam, torch.from_numpy(one), [prompt], [1.0]) for (one,) in pair]
        one, other = ((d.low_res_logits()[0, 0] > 0).numpy() for d in decoded)
        apart.append(1 - float((one & other).sum() / max((one | other).sum(), 1)))
    return float(np.mean(apart))


def fuse_encoder(sam: Sam) -> Sam:
    """Return a SAM whose encoder computes the same up to rounding, in a third less time.

    Outside of training a batch norm is a factor and a shift per channel, which the convolution
    before it can carry, and attention with its table of biases is one call of torch's. Everything
    else is shared; so is an encoder that is not MobileSAM's.
    """
    if not _conv_bn_pairs(sam.image_encoder):
        return sam
    encoder = copy.deepcopy(sam.image_encoder).eval()
    for module, convolution, norm in _conv_bn_pairs(encoder):
        module.c, module.bn = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    for block in encoder.modules():
        attention = getattr(block, "attn", None)
        if isinstance(attention, nn.Module) and hasattr(attention, "attention_biases"):
            block.attn = _Attention(attention)
    other = copy.copy(sam)
    other._modules = {**sam._modules, "image_encoder": encoder}
    return other


def _conv_bn_pairs(encoder: nn.Module) -> list[tuple[nn.Module, nn.Conv2d, nn.BatchNorm2d]]:
    """Return TinyViT's modules that are a convolution `c` and a batch norm `bn`, and these."""
    found = []
    for module in encoder.modules():
        convolution, norm = getattr(module, "c", None), getattr(module, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            found.append((module, convolution, norm))
    return found


class _Attention(nn.Module):
    """TinyViT's attention in windows, (B, N, C) to (B, N, C), its biases added by torch itself."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original

    def forward(self, x: Tensor) -> Tensor:
        own: Any = self.original
        batch, number, _ = x.shape
        parts = own.qkv(own.norm(x)).view(batch, number, own.num_heads, -1)
        query, key, value = (
            part.transpose(1, 2) for part in parts.split([own.key_dim, own.key_dim, own.d], dim=3)
        )
        bias = own.ab.to(query)[None]
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=own.scale
        )
        out: Tensor = own.proj(mixed.transpose(1, 2).reshape(batch, number, own.dh))
        return out

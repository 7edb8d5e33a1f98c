"""SAM's prompt encoder and mask decoder, for many images and many prompts in one call.

The stock decoder repeats one image's embedding for all prompts; here each prompt brings the
embedding of its own image. The arithmetic is the decoder's own, see `two_way`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from toolkit.methods.sam.prompts import PADDING, Prompt
from toolkit.methods.sam.two_way import masks_of, two_way

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

INPUT_SIZE = 1024
"""Side of SAM's square input; the longer side of an image is scaled to it."""

LOW_SIZE = 256
"""Side of the decoder's masks."""


@dataclass(frozen=True)
class Decoded:
    """What the decoder says for B prompts.

    Attributes:
        logits: float tensor (B, 4, 256, 256), or four times the embeddings' grid; the first is the
            single mask, the others the three candidates for an ambiguous prompt.
        quality: float tensor (B, 4), predicted IoU of each mask.
    """

    logits: Tensor
    quality: Tensor


def scale_to_input(size_wh: tuple[int, int]) -> float:
    """Return the factor from image pixels to SAM's input pixels."""
    return INPUT_SIZE / max(size_wh)


def decode(
    sam: Sam,
    embeddings: Tensor,
    prompts: Sequence[Prompt],
    scales: Sequence[float],
    masks: Tensor | None = None,
) -> Decoded:
    """Decode one prompt per embedding.

    Args:
        sam: the model.
        embeddings: float tensor (B, 256, h, w), one per prompt; SAM's own are 64 x 64.
        prompts: B prompts with equally many points.
        scales: B factors from image pixels to input pixels, see `scale_to_input`.
        masks: float tensor (B, 1, 4 h, 4 w), logits of the previous round, if any.
    """
    device = embeddings.device
    coords = np.stack([p.coords * s for p, s in zip(prompts, scales, strict=True)])
    labels = np.stack([p.labels for p in prompts])
    sparse = _embed_points(
        sam, torch.from_numpy(coords).to(device), torch.from_numpy(labels).to(device)
    )
    encoder = sam.prompt_encoder
    if masks is None:
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(embeddings)
    else:
        dense = encoder.mask_downscaling(masks)
    return _decode_tokens(sam, embeddings, sparse, dense)


def _embed_points(sam: Sam, coords: Tensor, labels: Tensor) -> Tensor:
    """Return tokens (B, N, 256) for points (B, N, 2) in input pixels with labels (B, N)."""
    encoder = sam.prompt_encoder
    tokens = encoder.pe_layer.forward_with_coords(coords + 0.5, encoder.input_image_size)
    known = torch.stack([e.weight[0] for e in encoder.point_embeddings])
    padding = labels == PADDING
    tokens = torch.where(padding[..., None], torch.zeros_like(tokens), tokens)
    table = torch.cat([known, encoder.not_a_point_embed.weight])
    return tokens + table[torch.where(padding, len(known), labels)]


def _decode_tokens(sam: Sam, embeddings: Tensor, sparse: Tensor, dense: Tensor) -> Decoded:
    decoder = sam.mask_decoder
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([output_tokens.expand(len(embeddings), -1, -1), sparse], dim=1)
    # Of the embeddings' own grid, which is coarser than SAM's in a part of the training.
    position = sam.prompt_encoder.pe_layer(tuple(embeddings.shape[-2:])).flatten(1).T
    source = (embeddings + dense).flatten(2).transpose(1, 2)
    kind = source.device.type
    if torch.is_autocast_enabled(kind):
        # One rounding here, or every layer of the decoder would convert all tokens anew.
        source = source.to(torch.get_autocast_dtype(kind))
    hidden, keys = two_way(decoder.transformer, source.contiguous(), position, tokens)
    return Decoded(
        logits=masks_of(decoder, hidden, keys, embeddings.shape[-2]),
        quality=decoder.iou_prediction_head(hidden[:, 0]),
    )


def to_image_size(logits: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """Scale mask logits to the image: up to the input square, padding off, then to image pixels.

    Args:
        logits: float tensor (B, C, 256, 256).
        size_wh: width and height of the image.

    Returns:
        float tensor (B, C, H, W).
    """
    width, height = size_wh
    scale = scale_to_input(size_wh)
    inner = (int(height * scale + 0.5), int(width * scale + 0.5))
    square = functional.interpolate(
        logits, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False
    )
    return functional.interpolate(
        square[..., : inner[0], : inner[1]], (height, width), mode="bilinear", align_corners=False
    )

"""The arithmetic of SAM's mask decoder, arranged for a processor.

Nearly all of the decoder's time goes into the 4,096 image tokens of each prompt, so they stay in
one layout, token by token, from the transformer to the mask: what the stock decoder projects one
after the other from the same tokens is projected at once, the constant positions are projected
apart from the tokens, and the transposed convolutions, whose windows do not overlap, are matrix
products. The parameters are the stock decoder's own, and so are the results, up to rounding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from segment_anything.modeling.common import LayerNorm2d
    from segment_anything.modeling.mask_decoder import MaskDecoder
    from segment_anything.modeling.transformer import Attention, TwoWayTransformer
    from torch import nn


def two_way(
    transformer: TwoWayTransformer, source: Tensor, position: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Let prompt tokens and image tokens attend to each other.

    Args:
        transformer: the decoder's.
        source: tensor (B, N, C), image tokens with the dense prompt added.
        position: tensor (N, C), their positions.
        tokens: tensor (B, T, C), output and prompt tokens.

    Returns:
        The tokens (B, T, C) and the image tokens (B, N, C) afterwards.
    """
    queries, keys = tokens, source
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            placed = queries + tokens
            queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
        queries = layer.norm1(queries)

        to_image, to_token = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        key, value, query = _project(
            keys, position,
            [(to_image.k_proj, True), (to_image.v_proj, False), (to_token.q_proj, True)],
        )  # fmt: skip
        asked = _attend(to_image, to_image.q_proj(queries + tokens), key, value)
        queries = layer.norm2(queries + asked)
        queries = layer.norm3(queries + layer.mlp(queries))

        told = _attend(to_token, query, to_token.k_proj(queries + tokens), to_token.v_proj(queries))
        keys = layer.norm4(keys + told)
    last = transformer.final_attn_token_to_image
    key, value = _project(keys, position, [(last.k_proj, True), (last.v_proj, False)])
    asked = _attend(last, last.q_proj(queries + tokens), key, value)
    answered: Tensor = transformer.norm_final_attn(queries + asked)
    return answered, keys


def masks_of(decoder: MaskDecoder, queries: Tensor, keys: Tensor, height: int) -> Tensor:
    """Turn image tokens and the mask tokens' answers into mask logits.

    Args:
        decoder: the mask decoder.
        queries: tensor (B, T, C), of which 1 to M are the mask tokens.
        keys: tensor (B, N, C).
        height: rows of the image tokens' grid.

    Returns:
        float tensor (B, M, 4 height, 4 N / height).
    """
    first, norm, act, second, last_act = decoder.output_upscaling
    count, number, _ = keys.shape
    width = number // height
    up = act(_layer_norm(_spread(first, keys), norm))  # (B, N, 4, C / 4)
    up = last_act(_spread(second, up))  # (B, N, 4, 4, C / 8)
    weights = torch.stack(
        [mlp(queries[:, 1 + index]) for index, mlp in enumerate(decoder.output_hypernetworks_mlps)],
        dim=2,
    )  # (B, C / 8, M)
    logits: Tensor = up.flatten(1, 3) @ weights.to(up.dtype)
    # Rows are made of the grid's row, then the half, then the quarter; columns likewise.
    grid = logits.reshape(count, height, width, 2, 2, 2, 2, -1)
    masks = grid.permute(0, 7, 1, 3, 5, 2, 4, 6)
    return masks.reshape(count, -1, 4 * height, 4 * width)


def _project(keys: Tensor, position: Tensor, layers: list[tuple[nn.Linear, bool]]) -> list[Tensor]:
    """Apply several linear layers to the same tokens; some see the positions too."""
    joined = functional.linear(keys, torch.cat([layer.weight for layer, _ in layers]))
    parts = torch.split(joined, [layer.out_features for layer, _ in layers], dim=-1)
    offsets = [
        functional.linear(position, layer.weight, layer.bias) if placed else layer.bias
        for layer, placed in layers
    ]
    return [p + o.to(p.dtype) for p, o in zip(parts, offsets, strict=True)]


def _attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = (_heads(x, attention.num_heads) for x in (query, key, value))
    # One side is a handful of tokens, for which fused attention kernels are slower than this.
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    mixed: Tensor = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return mixed


def _heads(x: Tensor, count: int) -> Tensor:
    """Split channels: (B, N, C) to (B, heads, N, C / heads)."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def _spread(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Apply a transposed convolution of kernel and stride 2, token by token.

    Returns:
        tensor (..., 4, C'), the four parts row by row.
    """
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 C', C)
    bias = layer.bias.repeat(4) if layer.bias is not None else None
    parts = functional.linear(x, weight, bias)
    return parts.reshape(*x.shape[:-1], 4, -1)


def _layer_norm(x: Tensor, norm: LayerNorm2d) -> Tensor:
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return functional.layer_norm(x, weight.shape, weight, bias, norm.eps)

"""SAM's prompt encoder and mask decoder for many prompts, of one or of several images, in one call.

The parameters are those of the stock decoder and so are the results, up to rounding. Nearly all of
its time goes into the 4,096 image tokens, so the linear layers of the attention are applied to the
few prompt tokens instead: (x W) · q is x · (W q), which has a few dozen columns in place of 128.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from toolkit.runtime.prompts import PADDING, Prompt

if TYPE_CHECKING:
    from segment_anything.modeling import MaskDecoder, Sam
    from segment_anything.modeling.transformer import Attention, TwoWayTransformer
    from torch import nn

LOW_RES_SIZE = 256
"""Side of the decoder's masks."""

LOGIT_LIMIT = 32.0
"""Logits that are fed back as a mask prompt are clamped to this, as SAM's authors do."""


@dataclass(frozen=True)
class DecodedPrompts:
    """B prompts after the transformer, before masks are made of them.

    Attributes:
        decoder: the mask decoder.
        tokens: float tensor (B, T, 256), output and prompt tokens.
        image_tokens: float tensor (B, N, 256).
        rows: rows of the image tokens' grid.
        columns: its columns.
    """

    decoder: MaskDecoder
    tokens: Tensor
    image_tokens: Tensor
    rows: int
    columns: int

    def iou_predictions(self) -> Tensor:
        """Return the predicted IoU of each mask, float tensor (B, 4).

        The first is of the single mask, the others of three candidates for an ambiguous prompt.
        """
        ious: Tensor = self.decoder.iou_prediction_head(self.tokens[:, 0].float())
        return ious

    def low_res_logits(self, index: slice | Tensor = slice(None), *, masks: int = 4) -> Tensor:
        """Return mask logits of all or some prompts.

        Args:
            index: of the prompts.
            masks: how many of the four masks, see `iou_predictions`.

        Returns:
            float tensor (b, masks, 256, 256), or four times the grid of the embeddings.
        """
        tokens, keys = self.tokens[index], self.image_tokens[index]
        first, norm, act, second, last_act = self.decoder.output_upscaling
        weight, bias = norm.weight.to(keys.dtype), norm.bias.to(keys.dtype)
        up = functional.layer_norm(_upsample(first, keys), weight.shape, weight, bias, norm.eps)
        up = last_act(_upsample(second, act(up)))  # (b, N, 4, 4, 32)
        mlps = self.decoder.output_hypernetworks_mlps[:masks]
        kernels = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(mlps)], dim=2)
        logits: Tensor = up.flatten(1, 3) @ kernels.to(up.dtype)
        # A row is made of the grid's row, then the half, then the quarter; a column likewise.
        grid = logits.reshape(-1, self.rows, self.columns, 2, 2, 2, 2, logits.shape[-1])
        ordered = grid.permute(0, 7, 1, 3, 5, 2, 4, 6)
        return ordered.reshape(-1, logits.shape[-1], 4 * self.rows, 4 * self.columns)


def decode(
    sam: Sam,
    embeddings: Tensor,
    prompts: Sequence[Prompt],
    scales: Sequence[float],
    masks: Tensor | None = None,
) -> DecodedPrompts:
    """Run prompt encoder and transformer on B prompts.

    Args:
        sam: the model.
        embeddings: float tensor (B, 256, h, w), one per prompt, or (1, 256, h, w) for one image
            with many prompts; SAM's own are 64 x 64.
        prompts: B prompts with equally many points.
        scales: B factors from image pixels to input pixels, see `scale_to_input`.
        masks: float tensor (B, 1, 4 h, 4 w), logits of the previous round, if any.
    """
    points = np.stack([p.coords * s for p, s in zip(prompts, scales, strict=True)])
    labels = np.stack([p.labels for p in prompts])
    device = embeddings.device
    return decode_points(
        sam, embeddings, torch.from_numpy(points).to(device), torch.from_numpy(labels).to(device),
        masks,
    )  # fmt: skip


def decode_points(
    sam: Sam, embeddings: Tensor, points: Tensor, labels: Tensor, masks: Tensor | None = None
) -> DecodedPrompts:
    """Do what `decode` does, with points that are tensors already; it can be traced.

    Args:
        sam: the model.
        embeddings: as of `decode`.
        points: float tensor (B, N, 2), in input pixels.
        labels: int64 tensor (B, N), see `Prompt`.
        masks: as of `decode`.
    """
    encoder = sam.prompt_encoder
    sparse = _embed_points(sam, points, labels)
    if masks is None:
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    else:
        dense = encoder.mask_downscaling(masks)
    decoder = sam.mask_decoder
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([output_tokens.expand(sparse.shape[0], -1, -1), sparse], dim=1)
    # Of the embeddings' own grid, which is coarser than SAM's in a part of the training.
    rows, columns = map(int, embeddings.shape[-2:])
    position = encoder.pe_layer((rows, columns)).flatten(1).T
    source = (embeddings + dense).flatten(2).transpose(1, 2)
    kind = embeddings.device.type
    if torch.is_autocast_enabled(kind):
        # Rounded once here, instead of anew in every layer.
        source = source.to(torch.get_autocast_dtype(kind))
    tokens, keys = _two_way(decoder.transformer, source.contiguous(), position, tokens)
    return DecodedPrompts(decoder, tokens, keys, rows, columns)


def _embed_points(sam: Sam, coords: Tensor, labels: Tensor) -> Tensor:
    """Return tokens (B, N, 256) for points (B, N, 2) in input pixels with labels (B, N)."""
    encoder = sam.prompt_encoder
    tokens = encoder.pe_layer.forward_with_coords(coords + 0.5, encoder.input_image_size)
    known = torch.stack([e.weight[0] for e in encoder.point_embeddings])
    padding = labels == PADDING
    tokens = torch.where(padding[..., None], torch.zeros_like(tokens), tokens)
    table = torch.cat([known, encoder.not_a_point_embed.weight])
    return tokens + table[torch.where(padding, len(known), labels)]


def _two_way(
    transformer: TwoWayTransformer, keys: Tensor, position: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Let prompt tokens (B, T, C) and image tokens (B or 1, N, C) attend to each other."""
    queries = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            placed = queries + tokens
            queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
        queries = layer.norm1(queries)
        attention = layer.cross_attn_token_to_image
        queries = layer.norm2(
            queries + _attend_to_image(attention, queries + tokens, keys, position)
        )
        queries = layer.norm3(queries + layer.mlp(queries))
        attention = layer.cross_attn_image_to_token
        keys = layer.norm4(_add_tokens(attention, keys, position, queries + tokens, queries))
    attention = transformer.final_attn_token_to_image
    queries = queries + _attend_to_image(attention, queries + tokens, keys, position)
    normed: Tensor = transformer.norm_final_attn(queries)
    return normed, keys


def _attend_to_image(
    attention: Attention, queries: Tensor, keys: Tensor, position: Tensor
) -> Tensor:
    """Return what prompt tokens (B, T, C) gather from image tokens (B or 1, N, C), as (B, T, C)."""
    heads = attention.num_heads
    query = _split_heads(attention.q_proj(queries), heads)  # (B, heads, T, C')
    query = query / math.sqrt(query.shape[-1])
    scores = _scores(
        _block_diagonal(query) @ attention.k_proj(position).T,
        query @ _by_head(attention.k_proj, heads),
        keys,
    )
    gathered = torch.bmm(scores.softmax(dim=-1), keys)
    gathered = gathered.reshape(queries.shape[0], heads, -1, keys.shape[-1])
    value = gathered @ _by_head(attention.v_proj, heads).transpose(1, 2)
    value = value + attention.v_proj.bias.reshape(heads, 1, -1)
    mixed: Tensor = attention.out_proj(value.transpose(1, 2).flatten(2))
    return mixed


def _add_tokens(
    attention: Attention, keys: Tensor, position: Tensor, placed: Tensor, queries: Tensor
) -> Tensor:
    """Return image tokens (B or 1, N, C) plus what they gather from prompt tokens, as (B, N, C).

    Args:
        attention: its queries are the image tokens.
        keys: the image tokens.
        position: tensor (N, C), their positions.
        placed: tensor (B, T, C), prompt tokens with their positions.
        queries: the same without.
    """
    heads = attention.num_heads
    key = _split_heads(attention.k_proj(placed), heads)  # (B, heads, T, C')
    key = key / math.sqrt(key.shape[-1])
    scores = _scores(
        _block_diagonal(key) @ attention.q_proj(position).T,
        key @ _by_head(attention.q_proj, heads),
        keys,
    )
    # Over the tokens, and not in the last dimension: seven numbers in a row fill no vector.
    shares = scores.reshape(key.shape[0], heads, -1, keys.shape[1]).softmax(dim=2).flatten(1, 2)
    value = _split_heads(attention.v_proj(queries), heads)
    out = attention.out_proj.weight.T.reshape(heads, -1, keys.shape[-1])  # (heads, C', C)
    # The shares of each head add up to 1, so each head brings its part of the bias.
    values = (value @ out + attention.out_proj.bias / heads).flatten(1, 2)
    return torch.baddbmm(keys, shares.transpose(1, 2), values.to(keys.dtype))


def _scores(of_positions: Tensor, tokens: Tensor, keys: Tensor) -> Tensor:
    """Return products of tokens and image tokens.

    Args:
        of_positions: tensor (B, heads T, N), the part that the positions bring.
        tokens: tensor (B, heads, T, C).
        keys: image tokens (B, N, C), or (1, N, C) for all prompts, which are not copied then.

    Returns:
        tensor (B, heads T, N), or (1, B heads T, N).
    """
    count = keys.shape[0]  # not `len`, which is a constant where the decoder is traced
    rows = tokens.reshape(count, -1, keys.shape[-1])
    return torch.baddbmm(of_positions.reshape(count, -1, keys.shape[1]), rows, keys.transpose(1, 2))


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """Split channels: (B, T, C) to (B, heads, T, C / heads)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _by_head(layer: nn.Linear, heads: int) -> Tensor:
    """Return the weight of a linear layer by head, (heads, outputs / heads, inputs)."""
    return layer.weight.reshape(heads, -1, layer.in_features)


def _block_diagonal(x: Tensor) -> Tensor:
    """Return (B, heads, T, C') as (B, heads T, heads C'), zero where two heads meet."""
    heads = x.shape[1]
    eye = torch.eye(heads, device=x.device, dtype=x.dtype)[:, None, :, None]
    return (x[:, :, :, None] * eye).flatten(3).flatten(1, 2)


def _upsample(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Apply a transposed convolution of kernel and stride 2, token by token.

    Its windows do not overlap, so it is a matrix product.

    Returns:
        tensor (..., 4, C'), the four parts row by row.
    """
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 C', C)
    bias = layer.bias.repeat(4) if layer.bias is not None else None
    return functional.linear(x, weight, bias).reshape(*x.shape[:-1], 4, -1)

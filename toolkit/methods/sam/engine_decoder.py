"""First prompts of one image, decoded by `decoder_graph` in an inference engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toolkit.runtime.prompts import Prompt
from toolkit.runtime.segmentation import PROMPTS_PER_CALL, decoder_inputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

    from toolkit.methods.base import Engine


def decode_in_engine(
    sam: Sam, engine: Engine, embedding: Tensor, prompts: Sequence[Prompt], scale: float
) -> list[tuple[float, Tensor]]:
    """Return the predicted IoU and the mask logits (1, 256, 256) of each first prompt.

    Args:
        sam: the model, whose head predicts the IoUs.
        engine: runs its `decoder_graph`.
        embedding: float tensor (256, 64, 64), of the image or of its view.
        prompts: in pixels of it.
        scale: from these to pixels of SAM's input.
    """
    array, found = embedding[None].float().cpu().numpy(), []
    for start in range(0, len(prompts), PROMPTS_PER_CALL):
        part = prompts[start : start + PROMPTS_PER_CALL]
        tokens, logits = engine(*decoder_inputs(array, part, scale))
        ious = predicted_ious(sam, tokens).tolist()
        found += list(zip(ious, torch.from_numpy(logits)[:, None], strict=True))
    return found


@torch.no_grad()
def predicted_ious(sam: Sam, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the model predicts from tokens (B, 256) as IoUs of the single masks, (B,)."""
    found: NDArray[np.float32] = sam.mask_decoder.iou_prediction_head(torch.from_numpy(tokens))[
        :, 0
    ].numpy()
    return found

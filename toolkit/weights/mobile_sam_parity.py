"""Compare a rebuilt MobileSAM with the ONNX files it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import WeightsError
from toolkit.weights.mobile_sam_network import EMBEDDING_SIZE, IMAGE_SIZE, build_mobile_sam

if TYPE_CHECKING:
    from torch import Tensor

ENCODER_LIMIT = 1e-4
DECODER_LIMIT = 1e-3
MASK_INPUT_SIZE = 4 * EMBEDDING_SIZE


@dataclass(frozen=True)
class Parity:
    """Largest absolute differences on fixed inputs.

    Attributes:
        encoder: of the image embedding; its values are about 0.1 to 1.
        decoder: of the mask logits at 256×256.
        iou: of the predicted IoU.
    """

    encoder: float
    decoder: float
    iou: float


def check_parity(state: Mapping[str, Tensor], encoder_onnx: Path, decoder_onnx: Path) -> Parity:
    """Run both implementations on one seeded image with a click and a box, and with a mask.

    Args:
        state: MobileSAM's state dict.
        encoder_onnx: (B, 3, 1024, 1024) normalised RGB → (B, 256, 64, 64).
        decoder_onnx: Meta's export of prompt encoder and mask decoder, single mask.

    Raises:
        WeightsError: a difference is 1e-4 or more in the embedding, 1e-3 or more in the logits.
    """
    import numpy as np
    import onnxruntime
    import torch
    from segment_anything.utils.onnx import SamOnnxModel

    network = build_mobile_sam(state)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3

    def session(path: Path) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )

    with torch.no_grad():
        ours = network.image_encoder(torch.from_numpy(image)).numpy()
        (theirs,) = session(encoder_onnx).run(None, {"input": image})
        encoder = float(np.abs(ours - theirs).max())
        ours_decoder = SamOnnxModel(network, return_single_mask=True)
        their_decoder = session(decoder_onnx)
        decoder, iou = 0.0, 0.0
        for has_mask in (0.0, 1.0):
            # Labels: 1 a click inside, 0 a click outside, 2 and 3 the corners of a box.
            prompts = {
                "image_embeddings": theirs,
                "point_coords": rng.uniform(0, IMAGE_SIZE, (1, 4, 2)).astype(np.float32),
                "point_labels": np.array([[1, 0, 2, 3]], dtype=np.float32),
                "mask_input": rng.standard_normal((1, 1, MASK_INPUT_SIZE, MASK_INPUT_SIZE)).astype(
                    np.float32
                ),
                "has_mask_input": np.array([has_mask], dtype=np.float32),
                "orig_im_size": np.array([IMAGE_SIZE, IMAGE_SIZE], dtype=np.float32),
            }
            _, our_iou, our_logits = ours_decoder(*map(torch.from_numpy, prompts.values()))
            _, their_iou, their_logits = their_decoder.run(None, prompts)
            decoder = max(decoder, float(np.abs(our_logits.numpy() - their_logits).max()))
            iou = max(iou, float(np.abs(our_iou.numpy() - their_iou).max()))
    # Written so that NaN fails too.
    if not (encoder < ENCODER_LIMIT and decoder < DECODER_LIMIT):
        raise WeightsError(
            f"rebuilt MobileSAM differs from its ONNX files by {encoder:.1e} in the embedding "
            f"and {decoder:.1e} in the logits"
        )
    return Parity(encoder=encoder, decoder=decoder, iou=iou)

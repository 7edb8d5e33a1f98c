"""The MobileSAM network in the shape of Meta's `Sam`, ready for `SamPredictor`.

MobileSAM (Zhang et al. 2023, arXiv 2306.14289) keeps SAM's prompt encoder and mask decoder and
puts a TinyViT of 5 million parameters in the place of the ViT-H image encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import ultralytics_env
from toolkit.errors import WeightsError
from toolkit.weights.checkpoint import load_state_dict

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor

IMAGE_SIZE = 1024
EMBEDDING_SIZE = 64
EMBEDDING_CHANNELS = 256
# Of RGB images in [0, 255], as in Meta's build_sam.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def build_mobile_sam(weights: Mapping[str, Tensor] | Path) -> Sam:
    """Build MobileSAM and load its weights.

    Args:
        weights: a state dict with MobileSAM's names (`image_encoder.*`, `prompt_encoder.*`,
            `mask_decoder.*`), or the path of one.

    Returns:
        The network in eval mode on the CPU. Image embeddings are (B, 256, 64, 64) float32.
        In weights rebuilt from ONNX the batch normalisation of the encoder is folded into the
        convolutions: keep the encoder in eval mode when training.

    Raises:
        WeightsError: the weights are of another architecture.
    """
    state = load_state_dict(weights) if isinstance(weights, Path) else weights
    network = empty_mobile_sam()
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        where = f"{weights}: " if isinstance(weights, Path) else ""
        first = str(error).splitlines()[1:2]
        raise WeightsError(
            f"{where}not the weights of MobileSAM ({' '.join(first).strip()[:160]})"
        ) from error
    # After loading, because TinyViT tabulates its attention biases when it enters eval mode; after
    # loading other weights, call eval() again.
    return network.eval()


def empty_mobile_sam() -> Sam:
    """Build the network with random weights."""
    ultralytics_env.prepare()
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
    from ultralytics.models.sam.modules.tiny_encoder import TinyViT

    return Sam(
        image_encoder=TinyViT(
            img_size=IMAGE_SIZE,
            num_classes=1000,
            embed_dims=(64, 128, 160, 320),
            depths=(2, 2, 6, 2),
            num_heads=(2, 4, 5, 10),
            window_sizes=(7, 7, 14, 7),
            drop_path_rate=0.0,
            layer_lr_decay=0.8,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=EMBEDDING_CHANNELS,
            image_embedding_size=(EMBEDDING_SIZE, EMBEDDING_SIZE),
            input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=EMBEDDING_CHANNELS,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=EMBEDDING_CHANNELS, num_heads=8, mlp_dim=2048
            ),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )

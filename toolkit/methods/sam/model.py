"""Which SAM, from which weights; and the part of it that learns, as a small file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from toolkit.errors import WeightsError
from toolkit.methods.sam.lora import lora_layers, lora_state, merge_lora
from toolkit.runs.run import Run
from toolkit.weights.resolve import resolve_weights

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import nn

    from toolkit.methods.sam.settings import SamSettings

_META = {"sam-vit-b": "vit_b", "sam-vit-l": "vit_l", "sam-vit-h": "vit_h"}
_TUNED = ("prompt_encoder", "mask_decoder")


def load_sam(settings: SamSettings, run: Run) -> Sam:
    """Build the model with its pretrained weights, frozen and in eval mode.

    The choice of weights is noted in the run.

    Raises:
        WeightsError: the weights cannot be had, or are of another architecture.
    """
    resolved = resolve_weights(settings.weights, settings.model, network=settings.model)
    path = resolved.path
    if not run.finished:
        run.update_metadata(weights=resolved.name, weights_source=resolved.source)
    sam = (
        _build_mobile_sam(path)
        if settings.model == "mobile-sam"
        else _build_meta(settings.model, path)
    )
    for parameter in sam.parameters():
        parameter.requires_grad_(False)
    sam.image_encoder.to(memory_format=torch.channels_last)  # convolutions prefer it
    return sam.to(run.device).eval()


def save_tuned(sam: Sam, path: Path) -> None:
    """Write prompt encoder and mask decoder (16 MB) as safetensors, with SAM's own names.

    What was learnt by low-rank adaptation of the encoder is in the same file.
    """
    from safetensors.torch import save

    tuned = {k: v for k, v in sam.state_dict().items() if k.startswith(_TUNED)}
    state = {k: v.contiguous().cpu() for k, v in {**tuned, **lora_state(sam)}.items()}
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(save(state))
    temporary.replace(path)


def load_tuned(sam: Sam, path: Path) -> None:
    """Load what `save_tuned` wrote.

    Raises:
        WeightsError: missing, damaged, or of another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path}: cannot be read ({error}); run the fine-tuning again"
        ) from error
    wanted = {k: v for k, v in sam.state_dict().items() if k.startswith(_TUNED)}
    decoder = {k: v for k, v in state.items() if k.startswith(_TUNED)}
    odd = [k for k in wanted if k not in decoder or decoder[k].shape != wanted[k].shape]
    if odd or len(decoder) != len(wanted):
        raise WeightsError(f"{path}: not the decoder of this SAM (see {odd[0] if odd else 'size'})")
    sam.load_state_dict(decoder, strict=False)
    try:
        merge_lora(sam, {k: v for k, v in state.items() if k not in decoder})
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{path}: adapted another image encoder than this SAM's") from error


def copy_decoder(sam: Sam) -> Sam:
    """Return a SAM that shares the image encoder but has its own prompt encoder and decoder.

    An encoder that learns is not shared either.
    """
    other = copy.copy(sam)
    other._modules = dict(sam._modules)
    other.prompt_encoder = copy.deepcopy(sam.prompt_encoder)
    other.mask_decoder = copy.deepcopy(sam.mask_decoder)
    if lora_layers(sam):
        other.image_encoder = copy.deepcopy(sam.image_encoder)
    return other


def trained_modules(sam: Sam, train: str) -> list[nn.Module]:
    """Return the modules that learn, by the setting `train`."""
    if train == "decoder+prompt":
        return [sam.mask_decoder, sam.prompt_encoder]
    return [sam.mask_decoder, *lora_layers(sam)]


def _build_mobile_sam(path: Path | None) -> Sam:
    from toolkit.weights.mobile_sam_network import build_mobile_sam, empty_mobile_sam

    return empty_mobile_sam() if path is None else build_mobile_sam(path)


def _build_meta(name: str, path: Path | None) -> Sam:
    from segment_anything import sam_model_registry

    from toolkit.weights.checkpoint import load_tensors

    sam = sam_model_registry[_META[name]]()
    if path is not None:
        try:
            sam.load_state_dict(load_tensors(path))
        except RuntimeError as error:
            raise WeightsError(f"{path}: not the weights of {name}; choose another FILE") from error
    return sam

"""The SAM that a run starts from, and the fine-tuned part of it, as files of the run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from toolkit.errors import WeightsError
from toolkit.files import atomic_write
from toolkit.methods.sam.settings import SamSettings
from toolkit.runs.run import Run
from toolkit.weights.checkpoint import load_state_dict, tensors_sha256
from toolkit.weights.resolve import resolve_weights

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor

DECODER, INITIAL = "decoder.safetensors", "initial.safetensors"
ENCODER_KEY = "encoder_sha256"
_META = {"sam-vit-b": "vit_b", "sam-vit-l": "vit_l", "sam-vit-h": "vit_h"}
_FINE_TUNED = ("prompt_encoder", "mask_decoder")


def start_model(settings: SamSettings, run: Run) -> Sam:
    """Return the model that a training starts from, and record it in the run.

    The hash of its image encoder goes into the metadata. Weights that the registry does not have
    (those of a file, or random ones) are copied into the run.

    Raises:
        WeightsError: the weights cannot be had, are damaged, or are of another architecture.
    """
    if ENCODER_KEY in run.metadata:  # resumed
        return initial_model(settings, run)
    resolved = resolve_weights(settings.weights, settings.model, network=settings.model)
    sam = _build(settings.model, resolved.path)
    if resolved.path is None or Path(settings.weights).expanduser().is_file():
        _write_tensors(sam.state_dict(), run.weights / INITIAL)
    run.update_metadata(
        weights=resolved.name,
        weights_source=resolved.source,
        **{ENCODER_KEY: encoder_sha256(sam)},
    )
    return _frozen(sam, run)


def initial_model(settings: SamSettings, run: Run) -> Sam:
    """Return the model that a run started from: frozen, in eval mode, on the run's device.

    Raises:
        WeightsError: its weights cannot be had any more, are damaged, or are others.
    """
    path: Path | None = run.weights / INITIAL
    source = str(path)
    if path is None or not path.is_file():
        resolved = resolve_weights(settings.weights, settings.model, network=settings.model)
        path, source = resolved.path, f"weights {resolved.name} ({resolved.source})"
    sam = _build(settings.model, path)
    expected, found = run.metadata.get(ENCODER_KEY, "unknown"), encoder_sha256(sam)
    if expected != found:
        raise WeightsError(
            f"{run.path}: trained with the image encoder {expected[:12]}, but {source} has "
            f"{found[:12]}; restore the original weights or train again"
        )
    return _frozen(sam, run)


def fine_tuned_model(settings: SamSettings, run: Run) -> Sam:
    """Return the model of a run with its trained decoder.

    Raises:
        WeightsError: as `initial_model`, or the decoder is missing, damaged, or of another network.
    """
    sam = initial_model(settings, run)
    load_decoder(sam, run.weights / DECODER)
    return sam


def encoder_sha256(sam: Sam) -> str:
    """Return the SHA-256 of the image encoder's tensors."""
    return tensors_sha256(sam.image_encoder.state_dict())


def save_decoder(sam: Sam, path: Path) -> None:
    """Write prompt encoder and mask decoder (16 MB) as safetensors, with SAM's own names."""
    state = sam.state_dict()
    _write_tensors({k: v for k, v in state.items() if k.startswith(_FINE_TUNED)}, path)


def load_decoder(sam: Sam, path: Path) -> None:
    """Load what `save_decoder` wrote, in place.

    Raises:
        WeightsError: missing, damaged, or of another architecture.
    """
    state = _read_safetensors(path)
    expected = {k: v for k, v in sam.state_dict().items() if k.startswith(_FINE_TUNED)}
    for name in sorted(expected.keys() | state.keys()):
        if name not in expected or name not in state or state[name].shape != expected[name].shape:
            raise WeightsError(f"{path}: not the decoder of this SAM (see {name}); train again")
    sam.load_state_dict(state, strict=False)


def copy_decoder(sam: Sam) -> Sam:
    """Return a SAM that shares the image encoder but has its own prompt encoder and decoder."""
    other = copy.copy(sam)
    other._modules = dict(sam._modules)
    for name in _FINE_TUNED:
        other._modules[name] = copy.deepcopy(sam._modules[name])
    return other


def _build(model: str, path: Path | None) -> Sam:
    """Build a model on the CPU; with random weights without a path."""
    if model == "mobile-sam":
        from toolkit.weights.mobile_sam_network import empty_mobile_sam

        sam = empty_mobile_sam()
    else:
        from segment_anything import sam_model_registry

        sam = sam_model_registry[_META[model]]()
    if path is not None:
        try:
            sam.load_state_dict(_read_checkpoint(path))
        except RuntimeError as error:
            raise WeightsError(
                f"{path}: not the weights of {model}; choose another FILE or --model"
            ) from error
    # After loading: in eval mode TinyViT tabulates its attention biases.
    return sam.eval()


def _frozen(sam: Sam, run: Run) -> Sam:
    sam.requires_grad_(False)
    sam.image_encoder.to(memory_format=torch.channels_last)  # convolutions are faster in it
    return sam.to(run.device)


def _read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Read a plain state dict, as safetensors or as a file of torch."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        state = load_state_dict(path)
    except WeightsError as error:
        if "can run code" not in str(error):
            raise
        raise WeightsError(
            f"{path}: a pickled network, which can run code when it is read; save its state dict "
            "as safetensors and give that file"
        ) from error
    _check_finite(state, path)
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path}: cannot be read as safetensors ({reason}); restore the file or train again"
        ) from error
    _check_finite(state, path)
    return state


def _check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(
                f"{path}: damaged ({name} holds values that are not finite); restore the file or "
                "train again"
            )


def _write_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(plain))

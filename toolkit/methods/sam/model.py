"""The SAM that a run starts from, and the fine-tuned part of it, as files of the run.

One training can serve several prompters: a run may predict with another run's decoder.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from toolkit.config import settings_dict
from toolkit.errors import ConfigError, WeightsError
from toolkit.files import atomic_write, read_json
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.sam.tta import Decoders
from toolkit.runs.run import Run
from toolkit.weights.checkpoint import load_state_dict, tensors_sha256
from toolkit.weights.resolve import resolve_weights

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor

DECODER, INITIAL = "decoder.safetensors", "initial.safetensors"
ENCODER_KEY = "encoder_sha256"
ENCODER_ENGINE, DECODERS = "encoder_engine", "decoders"
"""In the metadata: what the training's encodings ran in; which decoder answers what, and why."""
_META = {"sam-vit-b": "vit_b", "sam-vit-l": "vit_l", "sam-vit-h": "vit_h"}
_FINE_TUNED = ("prompt_encoder", "mask_decoder")
_METADATA = (
    "weights", "weights_source", ENCODER_KEY, ENCODER_ENGINE, DECODERS, "parameters", "fit_seconds"
)  # fmt: skip
_SAME = ("hash", "fold", "train")
PREDICTION_SETTINGS = {
    "tta",
    "tta_views",
    "tta_crops",
    "max_crops",
    "mask_threshold",
    "points_per_side",
    "prompt_confidence",
    "max_prompts",
    "score_ratio",
    "processes",
}
"""Settings that training does not depend on."""


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


def chosen_decoders(settings: SamSettings, run: Run) -> Decoders:
    """Return the models of a run, of which it keeps both where validation chose both.

    Raises:
        WeightsError: as `fine_tuned_model`.
    """
    untrained = initial_model(settings, run)
    tuned = copy_decoder(untrained)
    load_decoder(tuned, run.weights / DECODER)
    choice = {
        kind: {size: chosen["decoder"] for size, chosen in by_size.items()}
        for kind, by_size in run.metadata.get(DECODERS, {}).items()
    }
    needed = any("zero_shot" in by_size.values() for by_size in choice.values())
    return Decoders(tuned, untrained if needed else None, choice)


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


def reuse_decoder(settings: SamSettings, run: Run) -> bool:
    """Copy the weights and their metadata from the run's `decoder_run`.

    Returns:
        False where the run has none.

    Raises:
        ConfigError: the other run was trained on other images, or with other settings; nothing is
            copied.
    """
    other = run.input("decoder_run")
    if other is None:
        return False
    target = run.weights / DECODER
    if target.is_file():
        return True
    trained_on = [[r.method, *map(r.record["split"].get, _SAME)] for r in (other, run)]
    if trained_on[0] != trained_on[1]:
        raise ConfigError(
            f"--decoder-run {other.path}: not a run of {run.method} on the same fold of the same "
            "split, so it may have seen test images; name another"
        )
    theirs = {**settings_dict(SamSettings()), **other.record["settings"]}
    for key, value in settings_dict(settings).items():
        if theirs[key] != value and key not in PREDICTION_SETTINGS:
            raise ConfigError(
                f"--decoder-run {other.path}: was trained with another {key}; give "
                f"--{key.replace('_', '-')} {theirs[key]} or name another"
            )
    run.update_metadata(**{k: other.metadata[k] for k in _METADATA if k in other.metadata})
    for name in (INITIAL, DECODER):  # the decoder last, which marks that all is done
        if (other.weights / name).is_file():
            with atomic_write(run.weights / name) as temporary:
                shutil.copyfile(other.weights / name, temporary)
    run.log(f"decoder of {other.path}, not trained again")
    return True


def reused_report(settings: SamSettings, run: Run) -> dict[str, Any] | None:
    """Return the other run's figures under true prompts, if this one has the same settings."""
    other = run.input("decoder_run")
    if other is None or other.record["settings"] != settings_dict(settings):
        return None
    report: dict[str, Any] = read_json(other.path / "report.json")
    return report

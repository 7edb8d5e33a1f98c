"""One training, several prompters: a run that predicts with another run's decoder."""

from __future__ import annotations

import shutil
from typing import Any

from toolkit.config import settings_dict
from toolkit.errors import ConfigError
from toolkit.files import atomic_write, read_json
from toolkit.methods.sam.model import DECODER, ENCODER_KEY, INITIAL
from toolkit.methods.sam.settings import SamSettings
from toolkit.runs.run import Run

_METADATA = ("weights", "weights_source", ENCODER_KEY, "parameters", "fit_seconds")
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
}
"""Settings that training does not depend on."""


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

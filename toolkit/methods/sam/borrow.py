"""One training, several prompters: a run that answers with another run's decoder."""

from __future__ import annotations

import shutil
from typing import Any

from toolkit.config import settings_dict
from toolkit.errors import ConfigError
from toolkit.files import atomic_write, read_json
from toolkit.methods.sam.settings import SamSettings
from toolkit.runs.run import Run

_FACTS = ("weights", "weights_source", "parameters", "fit_seconds")
_SAME = ("hash", "fold", "train")
ANSWERING = {
    "grid",
    "prompt_confidence",
    "looks",
    "closer",
    "smooth",
    "threshold",
    "small",
    "window_limit",
    "prompt_limit",
    "keep",
}
"""Settings that training does not see."""


def borrow_decoder(settings: SamSettings, run: Run, name: str) -> bool:
    """Copy the decoder of the run's `decoder_run`, and what is known of it.

    Args:
        settings: of the borrower.
        run: the borrower.
        name: of the decoder's file.

    Returns:
        False where the run borrows from nobody.

    Raises:
        ConfigError: the other run learnt from other images, or in another way; nothing is copied.
    """
    other = run.input("decoder_run")
    if other is None:
        return False
    target = run.weights / name
    if target.is_file():
        return True
    learnt_from = [[r.method, *map(r.record["split"].get, _SAME)] for r in (other, run)]
    if learnt_from[0] != learnt_from[1]:
        raise ConfigError(
            f"--decoder-run {other.path}: not a run of {run.method} on the same fold of the same "
            "split, so it may have learnt from test images; name another"
        )
    theirs = _settings_of(other)
    odd = [k for k, v in settings_dict(settings).items() if theirs[k] != v and k not in ANSWERING]
    if odd:
        raise ConfigError(
            f"--decoder-run {other.path}: was trained with another {odd[0]}; give --{odd[0]} "
            f"{theirs[odd[0]]} or name another"
        )
    with atomic_write(target) as temporary:
        shutil.copyfile(other.weights / name, temporary)
    run.update_metadata(**{key: other.metadata[key] for key in _FACTS if key in other.metadata})
    run.log(f"decoder of {other.path}, not trained again")
    return True


def borrowed_report(settings: SamSettings, run: Run) -> dict[str, Any] | None:
    """Return the other run's figures under true prompts, if this one answers in the same way."""
    other = run.input("decoder_run")
    if other is None or _settings_of(other) != settings_dict(settings):
        return None
    report: dict[str, Any] = read_json(other.path / "report.json")
    return report


def _settings_of(run: Run) -> dict[str, Any]:
    """Return a run's settings; one that did not exist when it was made stands at its default."""
    return {**settings_dict(SamSettings()), **run.record["settings"]}

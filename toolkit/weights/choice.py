"""One meaning of a method's `weights` setting, for all methods."""

from __future__ import annotations

from pathlib import Path

from toolkit.errors import WeightsError
from toolkit.runs.run import Run
from toolkit.weights.fetch import fetch
from toolkit.weights.local import provenance_file
from toolkit.weights.registry import get

PRETRAINED, AUTO, NONE = "pretrained", "auto", "none"


def choose_weights(wanted: str, name: str, run: Run) -> Path | None:
    """Return the checkpoint to start from, and note in the run which it is and where it is from.

    Args:
        wanted: `pretrained` (an error where it cannot be had), `auto` (from scratch where it
            cannot be had, saying so), `none` (from scratch), or the path of a checkpoint.
        name: name in the registry of weights.
        run: its facts receive `weights` and `weights_source`.

    Raises:
        WeightsError: `pretrained` and it cannot be fetched, or the file does not exist.
    """
    if wanted == NONE:
        run.note(weights="none", weights_source="from scratch, as asked")
        return None
    if wanted not in (PRETRAINED, AUTO):
        path = Path(wanted).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"--weights {wanted}: no such file; use pretrained, auto, none or a checkpoint"
            )
        run.note(weights=path.name, weights_source=str(path))
        return path
    try:
        path = fetch(name)
    except WeightsError as error:
        if wanted == PRETRAINED:
            raise
        run.log(f"no pretrained weights, training from scratch: {error}")
        run.note(weights="none", weights_source=f"from scratch: {name} could not be fetched")
        return None
    run.note(weights=name, weights_source=describe_source(name, path))
    return path


def describe_source(name: str, path: Path) -> str:
    """Say, in a few words for the leaderboard, what is known of where a fetched file comes from."""
    entry = get(name)
    if provenance_file(path).is_file():
        packages = ", ".join(sorted({f"{m.client} {m.package}" for m in entry.mirrors}))
        origin = f"rebuilt from {packages}, tensors checked"
    elif entry.hash_known:
        origin = f"{entry.description}, sha256 checked"
    else:
        origin = f"{entry.description}, no published hash"
    return f"{origin}; {entry.licence}"

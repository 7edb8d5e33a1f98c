"""How large what a run learned is on the disk."""

from __future__ import annotations

from toolkit.runs.run import Run

_STATES = ("last.",)
"""Names of files that hold the state of the optimiser too, for going on with the training."""


def checkpoint_bytes(run: Run) -> int | None:
    """Return the size of what the run needs to predict; None where it stored nothing.

    States for going on with the training do not count. What is shared between runs, such as
    pretrained weights that stay as they are, lies elsewhere and does not count either.
    """
    folder = run.path / "weights"
    files = [file for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []
    needed = [file for file in files if not file.name.startswith(_STATES)]
    return sum(file.stat().st_size for file in needed) if needed else None

"""Export a finished run; the export is kept only if its outputs agree with the run's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from toolkit.errors import RunError
from toolkit.files import atomic_folder, write_json
from toolkit.methods.base import Exported
from toolkit.runs.run import Run


class ParityError(RunError):
    """The outputs of the exported model differ from those of the run."""

    exit_status = 1


def write_export(
    run: Run, export: Callable[[Path], Exported], out: Path, *, overwrite: bool = False
) -> Exported:
    """Let a method export into a folder that appears only when the export agrees with the run.

    Args:
        run: a finished run.
        export: writes files into the folder that it is given and compares them with the run.
        out: the folder to make; `export.json` in it says what was compared.
        overwrite: whether an existing folder may be replaced.

    Raises:
        RunError: the run is not finished.
        ParityError: export and run differ by more than the tolerance, or a difference is not a
            number; nothing is kept.
        OutputError: the folder is there already or cannot be written.
    """
    run.metrics()
    with atomic_folder(out, overwrite=overwrite) as folder:
        exported = export(folder)
        if not exported.max_difference <= exported.tolerance:
            raise ParityError(
                f"{run.path}: export and run differ by {exported.max_difference:.3g} "
                f"({exported.checked}; allowed {exported.tolerance:.3g}); nothing was written"
            )
        write_json(
            folder / "export.json",
            {
                "method": run.method,
                "run": run.path.name,
                "split": run.record["split"]["hash"],
                "fingerprint": run.record["data"]["fingerprint"],
                "threshold": None if exported.no_threshold else run.metrics()["thresholds"][0],
                **({"no_threshold": exported.no_threshold} if exported.no_threshold else {}),
                "weights": run.metadata.get("weights"),
                "weights_source": run.metadata.get("weights_source"),
                "files": list(exported.files),
                "checked": exported.checked,
                "max_difference": exported.max_difference,
                "tolerance": exported.tolerance,
            },
        )
    return exported

"""`toolkit stress RUN… --data DIR`: how runs bear changes of light, focus, place and camera."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def stress_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs.")],
    data: Annotated[
        Path, typer.Option("--data", help="The data set of the runs, or other images of its kind.")
    ],
    changes: Annotated[
        str | None,
        typer.Option("--changes", help="Names of changes, such as darker,blur; default: all."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="Card of toolkit calibrate, for its threshold."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", help="Of directions, noise and specks.", min=0)
    ] = 0,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for a plot and a JSON file per run.")
    ] = Path("stress"),
) -> None:
    """Predict test images under ten changes at five strengths each, with the threshold frozen.

    Prints one table for all runs: image AUROC, escapes and overkill at strengths 1, 3 and 5. Repeat
    the command to continue where it was stopped.
    """
    from toolkit.data.layouts import load_dataset
    from toolkit.decisions.changes import CHANGES
    from toolkit.decisions.stress import stress
    from toolkit.decisions.stress_render import plot_stress, stress_table
    from toolkit.errors import ConfigError
    from toolkit.inference.model import load_model

    if calibration is not None and len(runs) > 1:
        raise ConfigError("--calibration: is of one run; name this run alone")
    names = tuple(CHANGES)
    if changes is not None:
        names = tuple(dict.fromkeys(word.strip() for word in changes.split(",") if word.strip()))
    dataset = load_dataset(data)
    found = []
    for path in runs:
        model = load_model(path, calibration=calibration)
        name = f"{model.run.method}-{model.run.path.name}"
        one = stress(model, dataset, changes=names, seed=seed, out=out / f"{name}.json")
        plot_stress(one, out / f"{name}.png")
        say(f"plot {out / name}.png")
        found.append(one)
    print(stress_table(found))

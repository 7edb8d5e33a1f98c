"""`toolkit compare RUN_A RUN_B`: the images that only one of two runs got right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def compare_command(
    one: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run directory.")],
    other: Annotated[Path, typer.Argument(metavar="RUN_B", help="A run on the same split.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Where the data lies now, if it was moved.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the plots of those images.")
    ] = Path("compare"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
) -> None:
    """Compare two runs image by image, with paired intervals, and draw where they disagree."""
    from toolkit.files import atomic_folder
    from toolkit.leaderboards.compare import compare_runs, comparison_text, write_plots
    from toolkit.runs.evaluate import dataset_of
    from toolkit.runs.record import check_record
    from toolkit.runs.run import Run

    runs = (Run.open(one), Run.open(other))
    for run in runs:
        check_record(run)
    dataset = dataset_of(runs[0], moved_to=data)
    comparison = compare_runs(runs, dataset)
    print(comparison_text(comparison))
    if comparison.disagreements:
        with atomic_folder(out, overwrite=overwrite) as folder:
            files = write_plots(comparison, runs, dataset, folder)
        say(f"{len(files)} plots: {out}")

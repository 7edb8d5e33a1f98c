"""`toolkit compare RUN_A RUN_B`: which images did one get right and the other wrong."""

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
        Path, typer.Option("--out", help="Folder for the pictures of those images.")
    ] = Path("compare"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
) -> None:
    """Compare two runs image by image, with paired intervals, and draw where they part."""
    from toolkit.data.layouts import read_dataset
    from toolkit.files import atomic_folder
    from toolkit.leaderboard.collect import check_record
    from toolkit.leaderboard.compare import compare_runs, comparison_text, write_pictures
    from toolkit.runs.run import Run

    runs = (Run.open(one), Run.open(other))
    for run in runs:
        check_record(run)
    stored = runs[0].record["data"]
    dataset = read_dataset(data or stored["root"], layout=stored["layout"])
    comparison = compare_runs(runs, dataset)
    print(comparison_text(comparison))
    if comparison.verdicts:
        with atomic_folder(out, overwrite=overwrite) as folder:
            files = write_pictures(comparison, runs, dataset, folder)
        say(f"{len(files)} pictures: {out}")

"""`toolkit report RUNS --out report.html`: leaderboard, plots and gallery as one page."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def report_command(
    places: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUNS]...", help="Runs or folders of runs.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the data set, if it was moved.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
) -> None:
    """Write one page with leaderboard, plots and every test image; it opens without a network."""
    from toolkit.reporting.page import printable
    from toolkit.reporting.write import ImagesMissingWarning, RunLeftOutWarning, report

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", RunLeftOutWarning)
        warnings.simplefilter("always", ImagesMissingWarning)
        path = report(places or [Path("runs")], out, data=data, overwrite=overwrite)
    left_out = [str(w.message) for w in caught if w.category is RunLeftOutWarning]
    for warning in caught:
        prefix = "left out: " if warning.category is RunLeftOutWarning else ""
        say(printable(f"{prefix}{warning.message}"))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if left_out:
        raise typer.Exit(1)

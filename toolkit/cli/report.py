"""`toolkit report RUNS --out report.html`: leaderboard, curves and gallery as one page."""

from __future__ import annotations

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
        Path | None, typer.Option("--data", help="Where the data lies now, if it was moved.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it is there.")
    ] = False,
) -> None:
    """Write one page with leaderboard, curves and every test image; it opens without a network."""
    from toolkit.reporting.write import write_report

    written = write_report(places or [Path("runs")], out, data=data, overwrite=overwrite)
    for line in written.left_out:
        say(f"left out: {line}")
    print(
        f"{written.path}: {written.size / 1e6:.1f} MB, "
        f"{_counted(written.methods, 'method')}, {_counted(written.images, 'test image')}"
    )
    if written.left_out:
        raise typer.Exit(1)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"

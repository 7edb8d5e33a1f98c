"""`toolkit merge RUNS…`: the runs of several machines in one leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def merge_command(
    places: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Folders of runs of each machine.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to join them in.")] = Path(
        "runs/merged"
    ),
) -> None:
    """Copy finished runs of several machines into one folder, and print their leaderboard.

    What does not fit (split, data, schema, version) is named and left out; the exit status is 1.
    """
    from toolkit.benchmarking.merge import merge_runs
    from toolkit.leaderboards.board import leaderboard

    merged = merge_runs(places, out)
    for line in merged.notes:
        say(line)
    for line in merged.left_out:
        say(f"left out: {line}")
    if not merged.runs:
        raise typer.Exit(2)
    say(f"{len(merged.runs)} runs are in {out}")
    print(leaderboard([out]))
    if merged.left_out:
        raise typer.Exit(1)

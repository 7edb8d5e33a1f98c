"""`toolkit leaderboard` and `toolkit evaluate`: figures from stored predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def leaderboard_command(
    places: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUNS]...", help="Runs or folders of runs.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="table, markdown, csv or json.")] = "table",
) -> None:
    """Print the comparison of all finished runs; runs of different splits stand apart."""
    from toolkit.leaderboard.board import build_board, collect
    from toolkit.leaderboard.render import render

    board = build_board(collect(places or [Path("runs")]))
    print(render(board, form))
    if board.left_out:
        for line in board.left_out if form == "csv" else ():  # a table of CSV has no room for it
            say(f"left out: {line}")
        raise typer.Exit(1)


def evaluate_command(
    places: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Where the data lies now, if it was moved.")
    ] = None,
) -> None:
    """Compute the metrics of runs again, from their stored predictions alone."""
    from toolkit.benchmark.task import score
    from toolkit.data.layouts import read_dataset
    from toolkit.leaderboard.summary import run_summary
    from toolkit.runs.run import Run

    for place in places:
        run = Run.open(place)
        stored = run.record["data"]
        dataset = read_dataset(data or stored["root"], layout=stored["layout"])
        run.finish(score(run, dataset))
        say(f"evaluated: {run.path}")
        print(run_summary(run))

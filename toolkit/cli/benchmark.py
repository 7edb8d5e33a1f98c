"""`toolkit benchmark CONFIG`: every method on the same split, then the leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import open_dataset, say


def benchmark_command(
    config: Annotated[str, typer.Argument(help="Benchmark file, or a shipped name.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Data set; default: synthetic sample.")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings side by side; they share cores.")] = 1,
) -> None:
    """Run a grid of methods, folds and seeds; go on where it was stopped; print the leaderboard."""
    from toolkit.benchmark.executor import LocalExecutor
    from toolkit.benchmark.grid import read_grid
    from toolkit.benchmark.processes import ProcessExecutor
    from toolkit.benchmark.study import run_grid
    from toolkit.leaderboard.board import build_board
    from toolkit.leaderboard.render import render

    grid = read_grid(config)
    dataset = open_dataset(data)
    finished, errors = run_grid(
        grid,
        dataset,
        runs=runs / grid.name,
        device=device,
        executor=LocalExecutor() if jobs == 1 else ProcessExecutor(jobs),
        say=say,
    )
    if finished:
        print(render(build_board(finished), "table"))
    for error in errors:
        say(f"toolkit: {error}")
    if errors:
        raise typer.Exit(2 if not finished else 1)

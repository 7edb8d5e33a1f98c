"""`toolkit task CONFIG N`: one task of a benchmark, for an array of a scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.common import open_dataset, say

if TYPE_CHECKING:
    from toolkit.benchmarking.tasks import NumberedTask


def task_command(
    config: Annotated[str, typer.Argument(help="Benchmark file, or a shipped name.")],
    number: Annotated[
        int, typer.Argument(metavar="N", help="Number in toolkit benchmark CONFIG --list-tasks.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="As for toolkit benchmark, in the same order."),
    ] = None,
    runs: Annotated[
        str, typer.Option("--runs", help="Folder of all runs, or an address: s3://bucket/runs.")
    ] = "runs",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    with_needs: Annotated[
        bool,
        typer.Option(
            "--with-needs", help="First run the tasks that it needs; wait where others run them."
        ),
    ] = False,
) -> None:
    """Run one task of a benchmark into the same run folders; a finished one is left alone."""
    from toolkit.benchmarking.grid import read_benchmark
    from toolkit.benchmarking.tasks import run_task

    run = run_task(
        read_benchmark(config),
        number,
        data or open_dataset(None),
        runs=runs,
        device=device,
        with_needs=with_needs,
    )
    say(f"finished: {run.path}")


def print_tasks(tasks: list[NumberedTask]) -> None:
    """Print one line per task: number, stage, numbers of the needed tasks, state and run."""
    print("number\tstage\tneeds\tstate\trun")
    for one in tasks:
        needs = ",".join(map(str, one.needs)) or "-"
        state = "finished" if one.finished else "open"
        print(f"{one.number}\t{one.stage}\t{needs}\t{state}\t{one.path}")

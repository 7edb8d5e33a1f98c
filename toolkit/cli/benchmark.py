"""`toolkit benchmark CONFIG`: every method on the same split, then the leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolkit.cli.common import open_dataset, say
from toolkit.cli.task import print_tasks
from toolkit.errors import ConfigError, printable
from toolkit.storage import is_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.benchmarking.ray_executor import RayExecutor
    from toolkit.runs.profile import Profile


def benchmark_command(
    config: Annotated[str, typer.Argument(help="Benchmark file, or a shipped name.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            help="Data set, or a folder of several; repeatable. Default: synthetic sample.",
        ),
    ] = None,
    runs: Annotated[
        str, typer.Option("--runs", help="Folder of all runs, or an address: s3://bucket/runs.")
    ] = "runs",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            envvar="TOOLKIT_ENGINE",
            metavar="auto|torch|onnxruntime|openvino",
            help="What networks run in while their speed is measured, after all trainings.",
        ),
    ] = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings side by side; they share cores.")] = 1,
    unified: Annotated[
        bool,
        typer.Option(
            "--unified", help="Fit each good-only method also once on all data sets together."
        ),
    ] = False,
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option("--executor", help="local: this machine; ray: the nodes of a Ray cluster."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="auto|ray://HOST:PORT",
            help="The Ray cluster. Default: that of this machine, or a new one on it.",
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print also where the time went, by entry and phase.")
    ] = False,
    listing: Annotated[
        bool,
        typer.Option(
            "--list-tasks", help="Only print the tasks and their numbers, for toolkit task."
        ),
    ] = False,
) -> None:
    """Train methods on folds and seeds, resume what was interrupted, print the leaderboard."""
    from toolkit.benchmarking.grid import read_benchmark
    from toolkit.benchmarking.study import benchmark
    from toolkit.benchmarking.tasks import list_tasks
    from toolkit.leaderboards.board import leaderboard
    from toolkit.runs.profile import profiles

    if address is not None and executor != "ray":
        raise ConfigError("--address: needs --executor ray")
    grid = read_benchmark(config)
    if listing:
        print_tasks(list_tasks(grid, data or open_dataset(None), runs=runs, device=device))
        return
    result = benchmark(
        grid,
        data or open_dataset(None),
        runs=runs,
        device=device,
        jobs=jobs,
        executor=_ray(_logs(runs, grid.name), address) if executor == "ray" else None,
        engine=engine,
        unified=unified,
        say=say,
    )
    if len(result):
        print(leaderboard(result, part=grid.part))
    if profile:
        print_profiles(profiles(result.runs))
    for error in result.errors:
        say(f"toolkit: {error}")
    if result.errors:
        raise typer.Exit(1 if len(result) else 2)


def print_profiles(found: Sequence[Profile]) -> None:
    """Print seconds by entry and phase, and each entry's share of the whole."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from toolkit.runs.profile import PHASES

    whole = sum(one.total for one in found) or 1.0
    table = Table(box=box.SIMPLE)
    table.add_column("entry")
    for heading in ("runs", *PHASES, "sum", "share"):
        table.add_column(heading, justify="right")
    for one in found:
        phases = [f"{one.seconds[p]:.1f}" if p in one.seconds else "-" for p in PHASES]
        share = f"{one.total / whole:.0%}"
        table.add_row(printable(one.entry), str(one.runs), *phases, f"{one.total:.1f}", share)
    print("seconds")
    Console(width=100, highlight=False, markup=False).print(table)


def _logs(runs: str, name: str) -> Path | None:
    return None if is_address(runs) else Path(runs) / name / "logs"


def _ray(logs: Path | None, address: str | None) -> RayExecutor:
    from toolkit.benchmarking.ray_executor import RayExecutor

    return RayExecutor(
        address,
        resources=lambda job: job.resources,
        title=lambda job: job.name,
        logs=logs,
        say=say,
    )

"""The tasks of a benchmark by number, for schedulers that start one process per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.benchmarking.grid import BenchmarkConfig
from toolkit.benchmarking.plan import BenchmarkPlan, Category, check_config, plan_benchmark
from toolkit.data.types import Dataset
from toolkit.errors import ConfigError, RunError
from toolkit.leaderboards.benchmark_files import Display, read_display, write_display
from toolkit.runs.run import Run
from toolkit.runs.store import fetch_run, is_published
from toolkit.training import TrainingTask

_PATIENCE = 24 * 3600.0  # seconds to wait for a run that another task of the array trains


@dataclass(frozen=True)
class NumberedTask:
    """One task of a benchmark.

    Attributes:
        number: from 0; the same wherever the benchmark file and the data are the same.
        task: the training.
        category: its data set.
        needs: numbers of the tasks whose runs it reads.
        stage: 0 for a task that needs none, else one more than the highest of those.
    """

    number: int
    task: TrainingTask
    category: Category
    needs: tuple[int, ...]
    stage: int

    @property
    def path(self) -> Path:
        """Directory of its run."""
        return self.category.folder / self.task.method / str(self.task.name)

    @property
    def finished(self) -> bool:
        """Whether its run is finished."""
        if self.category.address is not None:
            place = f"{self.category.address}/{self.task.method}/{self.task.name}"
            return is_published(place)
        return (self.path / "metrics.json").is_file()


def list_tasks(
    config: BenchmarkConfig,
    data: str | Path | Dataset | Sequence[str | Path | Dataset],
    *,
    runs: str | Path = "runs",
    device: str = "auto",
) -> list[NumberedTask]:
    """Return the tasks of a benchmark with their numbers; nothing is written.

    Example:
        >>> for one in list_tasks(read_benchmark("benchmark/demo"), "bottle"):  # doctest: +SKIP
        ...     print(one.number, one.task.name, one.needs)

    Args:
        config: the benchmark.
        data: see `benchmark`.
        runs: folder of all runs.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        ToolkitError: a setting is wrong or a data set cannot be used. One that is left out would
            change the numbers.
    """
    check_config(config, device=device)
    return _numbered(config, plan_benchmark(config, data, runs), device=device)


def run_task(
    config: BenchmarkConfig,
    number: int,
    data: str | Path | Dataset | Sequence[str | Path | Dataset],
    *,
    runs: str | Path = "runs",
    device: str = "auto",
    with_needs: bool = False,
) -> Run:
    """Run one task of a benchmark into the folders that `benchmark` uses.

    A finished run is left alone. Tasks on different machines write into different folders.

    Args:
        config: the benchmark.
        number: of the task, see `list_tasks`.
        data: see `benchmark`.
        runs: folder of all runs.
        device: `auto`, `cpu`, `cuda` or `mps`.
        with_needs: first run the tasks that it needs, or wait for those that other processes run.

    Raises:
        ConfigError: no task of that number.
        RunError: a task that it needs is not finished, or another process runs this one.
        ToolkitError: what the training raises.
    """
    tasks = list_tasks(config, data, runs=runs, device=device)
    if not 0 <= number < len(tasks):
        raise ConfigError(
            f"task {number}: the benchmark {config.name} has tasks 0 to {len(tasks) - 1}; see: "
            "toolkit benchmark CONFIG --list-tasks"
        )
    chosen = tasks[number]
    if chosen.finished:
        if chosen.category.address is not None:
            place = f"{chosen.category.address}/{chosen.task.method}/{chosen.task.name}"
            fetch_run(place, chosen.path)
        return Run.open(chosen.path)
    order = sorted(_all_needs(tasks, number))  # what is needed has a lower number
    for other in order:
        if not tasks[other].finished and not with_needs:
            raise RunError(
                f"task {number} ({chosen.task.name}): needs task {other} "
                f"({tasks[other].task.name}), which is not finished; run that first, or add "
                "--with-needs"
            )
    _prepare_folder(config, chosen.category)
    chosen.category.publish_beside()
    for other in order:
        work = chosen.category.work([tasks[other].task], patience=_PATIENCE)
        work(tasks[other].task)
    return chosen.category.work([chosen.task])(chosen.task)


def _numbered(config: BenchmarkConfig, plan: BenchmarkPlan, *, device: str) -> list[NumberedTask]:
    if plan.broken:
        name, error = next(iter(plan.broken.items()))
        raise type(error)(f"{name}: {error}; without it the tasks would have other numbers")
    found: list[NumberedTask] = []
    for category in plan.categories:
        places: dict[str, int] = {}
        for task in category.tasks(config, device=device):
            needs = tuple(sorted(places[place] for place in task.inputs.values()))
            stage = 1 + max((found[n].stage for n in needs), default=-1)
            places[f"{task.method}/{task.name}"] = len(found)
            found.append(NumberedTask(len(found), task, category, needs, stage))
    return found


def _all_needs(tasks: Sequence[NumberedTask], number: int) -> set[int]:
    found: set[int] = set()
    for other in tasks[number].needs:
        found |= {other} | _all_needs(tasks, other)
    return found


def _prepare_folder(config: BenchmarkConfig, category: Category) -> None:
    """Store split and display settings, which are the same for every task, if they are missing."""
    displays = {e.name: Display(config.columns, e.published) for e in config.entries}
    if displays.keys() <= read_display(category.folder).keys():
        return
    category.write_split()
    write_display(category.folder, displays)

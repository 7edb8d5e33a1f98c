"""Run a benchmark: split once, train what is not finished, store what its leaderboard needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.benchmarking.executors import Executor, LocalExecutor, ProcessExecutor
from toolkit.benchmarking.grid import BenchmarkConfig, read_benchmark
from toolkit.benchmarking.plan import (
    BenchmarkPlan,
    Category,
    Job,
    Trainings,
    check_config,
    plan_benchmark,
)
from toolkit.benchmarking.speed import measure_runs
from toolkit.benchmarking.unified import SUFFIX, prices, train_unified, unified_tasks
from toolkit.data.types import Dataset
from toolkit.errors import ConfigError, ToolkitError
from toolkit.inference.engines import check_engine, default_engine
from toolkit.leaderboards.benchmark_files import Display, PooledMetrics, write_display
from toolkit.leaderboards.rows import group_folds
from toolkit.progress import naming
from toolkit.runs.run import Run
from toolkit.runs.store import fetch_run


@dataclass(frozen=True)
class BenchmarkResult:
    """The runs of a benchmark; iterating over it yields them.

    Attributes:
        runs: the finished runs, category by category, in the order of the benchmark file.
        errors: one for each task that failed, and for each category that cannot be used.
    """

    runs: tuple[Run, ...]
    errors: tuple[ToolkitError, ...] = ()

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)


def benchmark(
    config: str | Path | BenchmarkConfig,
    data: str | Path | Dataset | Sequence[str | Path | Dataset],
    *,
    runs: str | Path = "runs",
    device: str = "auto",
    jobs: int = 1,
    unified: bool = False,
    executor: Executor | None = None,
    engine: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> BenchmarkResult:
    """Train every method of a benchmark on every fold and seed; finished runs are kept.

    An interrupted benchmark is resumed by calling it again. The error of one task does not end the
    others. Of several data sets (categories) each has its runs in a sub-folder of its name; one
    that cannot be used is left out, and its error is among those of the result.

    Example:
        >>> result = benchmark("benchmark/demo", "mvtec/bottle")  # doctest: +SKIP
        >>> print(leaderboard(result.runs))  # doctest: +SKIP

    Args:
        config: benchmark file, name of one that ships, or its content.
        data: folder or address of the data set, or the data set; a list of several, or one folder
            that holds the folders of several.
        runs: folder of all runs, or an address such as `s3://bucket/runs`; those of the benchmark
            lie in a folder of its name.
        device: `auto`, `cpu`, `cuda` or `mps`.
        jobs: trainings side by side, each in a process of its own.
        unified: of several data sets, fit each good-only method also once on all of them together.
        executor: runs the tasks; this process, or `jobs` processes, if None.
        engine: what networks run in while their speed is measured, after all trainings; see
            `load_model`.
        say: receives one line per task.

    Raises:
        ToolkitError: a setting, the device or the data is wrong, or the folder holds runs of
            another split; nothing has run then.
    """
    if not isinstance(config, BenchmarkConfig):
        config = read_benchmark(str(config))
    if executor is None:
        executor = LocalExecutor() if jobs == 1 else ProcessExecutor(jobs)
    engine = default_engine() if engine is None else engine
    check_engine(engine)
    check_config(config, device=device)
    plan = plan_benchmark(config, data, runs, say=say)
    if unified and not plan.several:
        raise ConfigError("--unified: needs several data sets; give more --data")
    for category in plan.categories:  # all before the first run
        category.write_split()
    errors = [ToolkitError(f"{name}: {problem}") for name, problem in plan.broken.items()]
    finished, failed = _run_all(config, plan, device=device, executor=executor, say=say)
    errors += failed
    for category in plan.categories:
        errors += _measure(category, finished, engine=engine, say=_say_of(category, plan, say))
        category.publish_beside()
    if unified:
        more = _run_unified(config, plan, device=device, say=say)
        finished += more.runs
        errors += more.errors
        for price in prices(finished):
            say(price)
    return BenchmarkResult(tuple(finished), tuple(errors))


def _run_unified(
    config: BenchmarkConfig,
    plan: BenchmarkPlan,
    *,
    device: str,
    say: Callable[[str], None],
) -> BenchmarkResult:
    """Fit the good-only entries on all data sets together, one after the other."""
    for category in plan.categories:
        entries = {f"{e.name}{SUFFIX}": Display(config.columns) for e in config.entries}
        write_display(category.folder, entries)
    finished: list[Run] = []
    errors: list[ToolkitError] = []
    for task in unified_tasks(config, device=device):
        say(f"all categories: {task.name}")
        splits = {c.folder: c.plan.fold(c.dataset, task.fold) for c in plan.categories}
        try:
            with naming(task.name or task.entry):
                finished += train_unified(task, splits)
        except ToolkitError as error:
            say(f"failed: {task.name}: {error}")
            errors.append(error)
    return BenchmarkResult(tuple(finished), tuple(errors))


def _run_all(
    config: BenchmarkConfig,
    plan: BenchmarkPlan,
    *,
    device: str,
    executor: Executor,
    say: Callable[[str], None],
) -> tuple[list[Run], list[ToolkitError]]:
    """Run the tasks of all categories in one list, so that no worker waits for a category's end."""
    jobs: list[Job] = []
    works, needs, lines = [], {}, {}
    for number, category in enumerate(plan.categories):
        displays = {e.name: Display(config.columns, e.published) for e in config.entries}
        write_display(category.folder, displays)
        tasks = category.tasks(config, device=device)
        works.append(category.work(tasks, patience=executor.patience))
        by_place: dict[str, Job] = {}
        for place, task in enumerate(tasks, 1):
            job = Job(number, task)
            needs[id(job)] = [by_place[name] for name in task.inputs.values()]
            lines[id(job)] = f"[{place}/{len(tasks)}] {task.name}"
            by_place[f"{task.method}/{task.name}"] = job
        jobs += by_place.values()
    finished: dict[int, Run] = {}
    errors: list[ToolkitError] = []
    says = [_say_of(category, plan, say) for category in plan.categories]
    outcomes = executor.run(
        jobs,
        Trainings(tuple(works)),
        needs=lambda job: needs[id(job)],
        begun=lambda job: says[job.category](lines[id(job)]),
    )
    for outcome in outcomes:
        job, error = outcome.task, outcome.error
        if error is not None:
            says[job.category](f"failed: {job.task.name}: {error}")
            prefix = f"{plan.categories[job.category].dataset.name}: "
            errors.append(ToolkitError(f"{prefix}{error}") if plan.several else error)
        elif outcome.result is not None:
            finished[id(job)] = _here(plan.categories[job.category], job, outcome.result)
    return [finished[id(job)] for job in jobs if id(job) in finished], errors


def _here(category: Category, job: Job, run: Run) -> Run:
    """Return the run on this machine; fetched where another node has trained it."""
    place = f"{job.task.method}/{job.task.name}"
    if category.address is not None:
        fetch_run(f"{category.address}/{place}", category.folder / place)
    return run if run.path == category.folder / place else Run.open(category.folder / place)


def _measure(
    category: Category, runs: Sequence[Run], *, engine: str, say: Callable[[str], None]
) -> list[ToolkitError]:
    """Measure the speed of the runs of a category, and store what its leaderboard needs."""
    own = [run for run in runs if run.path.parents[1] == category.folder]
    errors = measure_runs(own, category.dataset, engine=engine, say=say)
    pooled = PooledMetrics(category.dataset)
    for folds in group_folds(own):
        if len(folds) > 1:
            with contextlib.suppress(ToolkitError):  # the leaderboard names it
                pooled.of(folds)
    return errors


def _say_of(
    category: Category, plan: BenchmarkPlan, say: Callable[[str], None]
) -> Callable[[str], None]:
    name = category.dataset.name
    return (lambda line: say(f"{name}: {line}")) if plan.several else say

"""Run a benchmark: split once, train what is not finished, store what its leaderboard needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.benchmarking.categories import load_categories
from toolkit.benchmarking.executors import Executor, LocalExecutor, ProcessExecutor
from toolkit.benchmarking.grid import (
    BenchmarkConfig,
    read_benchmark,
    skipped_budgets,
    training_tasks,
)
from toolkit.benchmarking.speed import measure_runs
from toolkit.benchmarking.unified import SUFFIX, prices, train_unified, unified_tasks
from toolkit.data.protocols import make_plan
from toolkit.data.shortcuts import warnings_of
from toolkit.data.splits import Split, SplitPlan
from toolkit.data.types import Dataset
from toolkit.errors import ConfigError, RunError, ToolkitError
from toolkit.inference.engines import check_engine, default_engine
from toolkit.leaderboards.benchmark_files import Display, PooledMetrics, write_display
from toolkit.leaderboards.rows import group_folds
from toolkit.methods.registry import make_method
from toolkit.progress import naming
from toolkit.runs.environment import choose_device
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training

SPLIT_FILE = "split.json"


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
        data: folder of the data set, or the data set; a list of several, or one folder that holds
            the folders of several.
        runs: folder of all runs; those of the benchmark lie in a folder of its name.
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
    choose_device(device)
    engine = default_engine() if engine is None else engine
    check_engine(engine)
    for entry in config.entries:  # all settings are validated before the first run
        method = make_method(entry.method, entry.settings, source=entry.source)
        for role in entry.reads:
            if role not in method.inputs:
                raise RunError(f"{entry.name}: {entry.method} takes no {role}; remove it")
    for entry in config.entries:
        skipped = skipped_budgets(entry.name, entry.method, config.label_budgets)
        if skipped is not None:
            say(skipped)
    folder = Path(runs) / config.name
    found = load_categories(data)
    for dataset in [found] if isinstance(found, Dataset) else found[0]:
        for note in dataset.notes:
            say(f"{dataset.name} (read as {dataset.layout}): {note}")
    if isinstance(found, Dataset):
        if unified:
            raise ConfigError("--unified: needs several data sets; give more --data")
        plan = _plan(config, found, folder / SPLIT_FILE)
        return _run_all(
            config, found, plan, folder, device=device, executor=executor, engine=engine, say=say
        )
    categories, broken = found
    plans = {}
    for dataset in categories:  # all are split before the first run
        try:
            plans[dataset.name] = _plan(config, dataset, folder / dataset.name / SPLIT_FILE)
        except ToolkitError as error:
            broken[dataset.name] = error
    errors = [ToolkitError(f"{name}: {problem}") for name, problem in broken.items()]
    for line in errors:
        say(f"left out: {line}")
    if not plans:
        raise next(iter(broken.values()))
    finished: list[Run] = []
    for dataset in categories:
        if dataset.name not in plans:
            continue
        result = _run_all(
            config,
            dataset,
            plans[dataset.name],
            folder / dataset.name,
            device=device,
            executor=executor,
            engine=engine,
            say=lambda line, name=dataset.name: say(f"{name}: {line}"),  # type: ignore[misc]
        )
        finished += result.runs
        errors += [ToolkitError(f"{dataset.name}: {failed}") for failed in result.errors]
    if unified:
        usable = [(d, plans[d.name]) for d in categories if d.name in plans]
        more = _run_unified(config, usable, folder, device=device, say=say)
        finished += more.runs
        errors += more.errors
        for price in prices(finished):
            say(price)
    return BenchmarkResult(tuple(finished), tuple(errors))


def _run_unified(
    config: BenchmarkConfig,
    plans: Sequence[tuple[Dataset, SplitPlan]],
    folder: Path,
    *,
    device: str,
    say: Callable[[str], None],
) -> BenchmarkResult:
    """Fit the good-only entries on all data sets together, one after the other."""
    for dataset, _ in plans:
        entries = {f"{e.name}{SUFFIX}": Display(config.columns) for e in config.entries}
        write_display(folder / dataset.name, entries)
    finished: list[Run] = []
    errors: list[ToolkitError] = []
    for task in unified_tasks(config, device=device):
        say(f"all categories: {task.name}")
        splits = {folder / d.name: plan.fold(d, task.fold) for d, plan in plans}
        try:
            with naming(task.name or task.entry):
                finished += train_unified(task, splits)
        except ToolkitError as error:
            say(f"failed: {task.name}: {error}")
            errors.append(error)
    return BenchmarkResult(tuple(finished), tuple(errors))


def _run_all(
    config: BenchmarkConfig,
    data: Dataset,
    plan: SplitPlan,
    folder: Path,
    *,
    device: str,
    executor: Executor,
    engine: str,
    say: Callable[[str], None],
) -> BenchmarkResult:
    """Run all tasks on one data set."""
    displays = {e.name: Display(config.columns, e.published) for e in config.entries}
    write_display(folder, displays)
    warnings = warnings_of(data)
    tasks = [replace(task, warnings=warnings) for task in training_tasks(config, device=device)]
    splits = {fold: plan.fold(data, fold) for fold in {task.fold for task in tasks}}
    finished: dict[str, Run] = {}
    errors: list[ToolkitError] = []
    by_place = {f"{task.method}/{task.name}": task for task in tasks}
    outcomes = executor.run(
        tasks,
        _Training(splits, folder),
        needs=lambda task: [by_place[place] for place in task.inputs.values()],
        begun=lambda task: say(f"[{tasks.index(task) + 1}/{len(tasks)}] {task.name}"),
    )
    for outcome in outcomes:
        task = outcome.task
        if outcome.error is not None:
            say(f"failed: {task.name}: {outcome.error}")
            errors.append(outcome.error)
        elif outcome.result is not None:
            finished[f"{task.method}/{task.name}"] = outcome.result
    ordered = tuple(finished[place] for place in by_place if place in finished)
    errors += measure_runs(ordered, data, engine=engine, say=say)
    pooled = PooledMetrics(data)
    for folds in group_folds(ordered):
        if len(folds) > 1:
            with contextlib.suppress(ToolkitError):  # the leaderboard names it
                pooled.of(folds)
    return BenchmarkResult(ordered, tuple(errors))


@dataclass(frozen=True)
class _Training:
    """Runs one task, in whichever process."""

    splits: Mapping[int, Split]
    folder: Path

    def __call__(self, task: TrainingTask) -> Run:
        with naming(task.name or task.entry):
            return run_training(task, self.splits[task.fold], runs=self.folder, resume=True)


def _plan(config: BenchmarkConfig, dataset: Dataset, path: Path) -> SplitPlan:
    plan = make_plan(
        dataset,
        protocol=config.protocol,
        folds=config.n_folds,
        seed=config.split_seed,
        per_class=config.per_class,
    )
    if path.is_file():
        stored = SplitPlan.read(path)
        if stored.hash != plan.hash:
            raise ToolkitError(
                f"{path}: these runs were made on another split ({stored.hash}, now {plan.hash}); "
                "choose another --runs"
            )
        if stored.fingerprint != plan.fingerprint:  # masks are no part of the hash
            raise ToolkitError(
                f"{path}: these runs were made on other data (fingerprint "
                f"{stored.fingerprint[:12]}, now {plan.fingerprint[:12]}); choose another --runs"
            )
    plan.write(path)
    return plan

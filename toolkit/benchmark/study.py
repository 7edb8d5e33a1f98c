"""A whole grid: split once, run what is not finished, collect the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.benchmark.budget import left_out
from toolkit.benchmark.executor import Executor, LocalExecutor
from toolkit.benchmark.grid import Entry, Grid, expand
from toolkit.data.splits import Split, SplitPlan, make_plan
from toolkit.data.types import Dataset
from toolkit.data.validate import validate_dataset
from toolkit.errors import RunError, ToolkitError
from toolkit.methods.registry import make_method
from toolkit.progress import naming
from toolkit.runs.environment import choose_device
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training

SPLIT_FILE = "split.json"


def run_grid(
    grid: Grid,
    dataset: Dataset,
    *,
    runs: Path,
    device: str = "auto",
    executor: Executor | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[list[Run], list[ToolkitError]]:
    """Run every task of a grid that is not finished yet.

    Args:
        grid: what to run.
        dataset: on which data.
        runs: the benchmark's own folder; its split file lies there too.
        device: torch device.
        executor: who carries the tasks out; this process if None.
        say: receives one line per task.

    Returns:
        The finished runs, and the errors of the tasks that could not be done.

    Raises:
        ToolkitError: a setting, the device or the data is wrong, or the folder holds runs of
            another split; nothing has run then.
    """
    choose_device(device)
    for entry in grid.entries:  # a slip of the pen is told now and not after hours
        method = make_method(entry.method, entry.settings, source=entry.source)
        for role in entry.reads:
            if role not in method.inputs:
                raise RunError(f"{entry.name}: {entry.method} takes no {role}; remove it")
    validate_dataset(dataset)
    plan = _plan(grid, dataset, runs / SPLIT_FILE)
    tasks = expand(grid, device=device)
    for entry in grid.entries:
        line = left_out(entry.name, entry.method, grid.budgets)
        if line is not None:
            say(line)
    splits = {fold: plan.fold(dataset, fold) for fold in grid.folds}
    entries = {entry.name: entry for entry in grid.entries}
    finished: list[Run] = []
    errors: list[ToolkitError] = []

    by_place = {f"{task.method}/{task.name}": task for task in tasks}
    outcomes = (executor or LocalExecutor()).run(
        tasks,
        _Work(splits, runs),
        needs=lambda task: [by_place[place] for place in task.inputs.values()],
        begun=lambda task: say(f"[{tasks.index(task) + 1}/{len(tasks)}] {task.name}"),
    )
    for outcome in outcomes:
        task = outcome.task
        if outcome.error is not None:
            say(f"failed: {task.name}: {outcome.error}")
            errors.append(outcome.error)
        elif outcome.result is not None:
            _note_shown(outcome.result, grid, entries[task.base_entry or task.entry])
            finished.append(outcome.result)
    place = {task.name: i for i, task in enumerate(tasks)}
    return sorted(finished, key=lambda run: place[run.path.name]), errors


@dataclass(frozen=True)
class _Work:
    """Carries out one task, in whichever process."""

    splits: Mapping[int, Split]
    runs: Path

    def __call__(self, task: TrainingTask) -> Run:
        with naming(task.name or task.entry):
            return run_training(task, self.splits[task.fold], runs=self.runs, resume=True)


def _note_shown(run: Run, grid: Grid, entry: Entry) -> None:
    """Note what the leaderboard shows of the run; no figure depends on it, so it may change."""
    wanted: dict[str, Any] = {}
    if grid.columns or "columns" in run.metadata:
        wanted["columns"] = list(grid.columns)
    if entry.published is not None or "published" in run.metadata:
        wanted["published"] = entry.published
    if any(run.metadata.get(key) != value for key, value in wanted.items()):
        run.update_metadata(**wanted)


def _plan(grid: Grid, dataset: Dataset, path: Path) -> SplitPlan:
    plan = make_plan(
        dataset,
        protocol=grid.protocol,
        folds=grid.split_folds,
        seed=grid.split_seed,
        per_class=grid.per_class,
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

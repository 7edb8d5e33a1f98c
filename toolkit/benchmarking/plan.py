"""What a benchmark is going to run: its data sets, their splits and folders, checked before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolkit.benchmarking.categories import load_categories
from toolkit.benchmarking.grid import BenchmarkConfig, skipped_budgets, training_tasks
from toolkit.data.layouts import find_datasets, load_dataset
from toolkit.data.mirror import local_data
from toolkit.data.protocols import make_plan
from toolkit.data.shortcuts import warnings_of
from toolkit.data.splits import Split, SplitPlan
from toolkit.data.types import Dataset
from toolkit.errors import RunError, ToolkitError
from toolkit.methods.registry import make_method
from toolkit.progress import naming
from toolkit.runs.environment import choose_device
from toolkit.runs.run import LockedRunError, Run
from toolkit.runs.store import fetch_run, local_runs, publish_file, publish_run
from toolkit.storage import is_address
from toolkit.training import TrainingTask, run_training

SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class Category:
    """One data set of a benchmark.

    Attributes:
        dataset: the data.
        plan: how it is split.
        folder: of its runs, on this machine.
        address: of its runs in a storage; None where the folder is all.
        source: address of its data in a storage; None where it lies on this machine.
    """

    dataset: Dataset
    plan: SplitPlan
    folder: Path
    address: str | None = None
    source: str | None = None

    def tasks(self, config: BenchmarkConfig, *, device: str) -> list[TrainingTask]:
        """Return its training tasks, each after those whose runs it reads."""
        warnings = warnings_of(self.dataset)
        return [replace(task, warnings=warnings) for task in training_tasks(config, device=device)]

    def write_split(self) -> None:
        """Store the split beside the runs."""
        self.plan.write(self.folder / SPLIT_FILE)

    def publish_beside(self) -> None:
        """Publish split and display settings, where the runs have an address."""
        if self.address is not None:
            for file in sorted(self.folder.glob("*.json")):
                publish_file(file, f"{self.address}/{file.name}")

    def work(
        self, tasks: Sequence[TrainingTask], *, patience: float = 0.0
    ) -> Callable[[TrainingTask], Run]:
        """Return what runs its tasks, see `Training` and `StoredTraining`."""
        folds = {task.fold for task in tasks}
        splits = {fold: self.plan.fold(self.dataset, fold) for fold in folds}
        if self.address is not None or self.source is not None:
            return StoredTraining(self, patience)
        return Training(splits, self.folder, patience)


@dataclass(frozen=True)
class BenchmarkPlan:
    """The data sets of a benchmark.

    Attributes:
        categories: those that can be used.
        broken: by name, the error of each that cannot.
        several: whether more than one was given, so that each has a folder of its own.
    """

    categories: tuple[Category, ...]
    broken: Mapping[str, ToolkitError]
    several: bool


@dataclass(frozen=True)
class Training:
    """Runs one task, in whichever process.

    Attributes:
        splits: by fold.
        folder: of the runs.
        patience: seconds to wait while another process trains the same run, such as one that is
            about to end because its node was lost.
    """

    splits: Mapping[int, Split]
    folder: Path
    patience: float = 0.0

    def __call__(self, task: TrainingTask) -> Run:
        """Return the finished run of a task; one that is finished is left alone."""
        until = time.monotonic() + self.patience
        with naming(task.name or task.entry):
            while True:
                try:
                    return run_training(task, self.splits[task.fold], runs=self.folder, resume=True)
                except LockedRunError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.5)


@dataclass(frozen=True)
class StoredTraining:
    """Runs one task whose runs or data have an address: fetch, train on this machine, publish.

    Attributes:
        category: with the addresses. Its folder is replaced by that of the machine.
        patience: see `Training`.
    """

    category: Category
    patience: float = 0.0

    def __call__(self, task: TrainingTask) -> Run:
        """Return the finished run, on the machine that this is called on."""
        category, address = self.category, self.category.address
        folder = category.folder if address is None else local_runs(address)
        name = f"{task.method}/{task.name}"
        if address is not None:
            for place in (*task.inputs.values(), name):
                fetch_run(f"{address}/{place}", folder / place)
        dataset = category.dataset
        if category.source is not None:
            dataset = load_dataset(local_data(category.source))
        split = category.plan.fold(dataset, task.fold)
        run = Training({task.fold: split}, folder, self.patience)(task)
        if address is not None:
            publish_run(run.path, f"{address}/{name}")
        return run


@dataclass(frozen=True)
class Job:
    """A training task of one of the categories.

    Attributes:
        category: its place in the plan.
        task: the training.
    """

    category: int
    task: TrainingTask

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.task.name or self.task.entry

    @property
    def resources(self) -> Mapping[str, float]:
        """What the task occupies on a cluster."""
        return self.task.resources


@dataclass(frozen=True)
class Trainings:
    """Runs one job, in whichever process.

    Attributes:
        of: what runs the tasks of each category.
    """

    of: tuple[Callable[[TrainingTask], Run], ...]

    def __call__(self, job: Job) -> Run:
        """Return the finished run."""
        return self.of[job.category](job.task)


def check_config(config: BenchmarkConfig, *, device: str) -> None:
    """Validate all settings before the first run.

    Raises:
        ToolkitError: a setting or the device is wrong.
    """
    choose_device(device)
    for entry in config.entries:
        method = make_method(entry.method, entry.settings, source=entry.source)
        for role in entry.reads:
            if role not in method.inputs:
                raise RunError(f"{entry.name}: {entry.method} takes no {role}; remove it")


def plan_benchmark(
    config: BenchmarkConfig,
    data: str | Path | Dataset | Sequence[str | Path | Dataset],
    runs: str | Path,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> BenchmarkPlan:
    """Read the data sets and split each; nothing is written.

    Args:
        config: the benchmark.
        data: see `benchmark`.
        runs: folder of all runs.
        say: receives one line per thing worth knowing.

    Raises:
        ToolkitError: no data set can be used, or the folder holds runs of another split.
    """
    for entry in config.entries:
        skipped = skipped_budgets(entry.name, entry.method, config.label_budgets)
        if skipped is not None:
            say(skipped)
    base = f"{str(runs).rstrip('/')}/{config.name}" if is_address(runs) else None
    folder = Path(runs) / config.name
    sources: dict[str, str] = {}
    found = load_categories(_local(data, sources))
    several = not isinstance(found, Dataset)
    datasets, broken = ([found], {}) if isinstance(found, Dataset) else found
    categories = []
    for dataset in datasets:
        for note in dataset.notes:
            say(f"{dataset.name} (read as {dataset.layout}): {note}")
        own = folder / dataset.name if several else folder
        address = base and (f"{base}/{dataset.name}" if several else base)
        if address is not None:
            own = local_runs(address)
        try:
            plan = _plan(config, dataset, own / SPLIT_FILE)
        except ToolkitError as error:
            if not several:
                raise
            broken[dataset.name] = error
        else:
            source = sources.get(str(dataset.root.resolve()))
            categories.append(Category(dataset, plan, own, address, source))
    for name, problem in broken.items():
        say(f"left out: {name}: {problem}")
    if not categories:
        raise next(iter(broken.values()))
    return BenchmarkPlan(tuple(categories), broken, several)


def _local(data: Any, sources: dict[str, str]) -> Any:
    """Replace addresses of data by folders of this machine, and note which is which."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        if not is_address(data):
            return data
        folder = local_data(data)
        for place in find_datasets(folder) or [folder]:
            below = place.relative_to(folder).as_posix()
            address = str(data).rstrip("/") + ("" if below == "." else f"/{below}")
            sources[str(place.resolve())] = address
        return folder
    return [_local(one, sources) for one in data]


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
    return plan

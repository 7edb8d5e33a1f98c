"""One training: fit, predict, evaluate, finish. It depends on nothing but its inputs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.config import find_config, read_yaml, settings_dict
from toolkit.data.splits import Budget, Split
from toolkit.data.types import Dataset, Sample
from toolkit.errors import ConfigError, DataError, MissingExtraError, RunError, WeightsError
from toolkit.files import write_json
from toolkit.inference.engines import default_engine, use_engine
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.base import Method
from toolkit.methods.registry import make_method, method_class
from toolkit.progress import track
from toolkit.runs.costs import checkpoint_bytes
from toolkit.runs.environment import (
    choose_device,
    forget_peak_memory,
    keep_freed_memory,
    peak_memory_bytes,
    seed_everything,
)
from toolkit.runs.evaluate import REPORT, evaluate
from toolkit.runs.prediction_io import write_predictions
from toolkit.runs.profile import ENGINE, EVALUATE, PREDICT, phase
from toolkit.runs.run import Run

_SEEDS = 2**32  # what every generator of random numbers takes


@dataclass(frozen=True)
class TrainingTask:
    """One training in plain values, so that any executor can send it anywhere.

    Attributes:
        method: name of the method.
        entry: name of the leaderboard's row; folds and seeds of one entry are pooled.
        settings: the method's settings that differ from its defaults.
        source: where the settings come from, for error messages.
        fold: number of the fold.
        seed: seed of all random numbers.
        device: `auto`, `cpu`, `cuda`, `mps`.
        name: name of the run; numbered if None.
        inputs: names of the tasks' runs that this one reads, by role.
        base_entry: in a study of label budgets, the entry without its budget; `entry` names both.
        budget: in a study of label budgets, the defect images per type that training may use.
        warnings: what a leaderboard says of the data, such as a shortcut that gives labels away.
        resources: what it occupies on a cluster: `cpus`, `gpus`, and `memory` in bytes.
    """

    method: str
    entry: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = "options"
    fold: int = 0
    seed: int = 0
    device: str = "auto"
    name: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    base_entry: str | None = None
    budget: Budget | None = None
    warnings: tuple[str, ...] = ()
    resources: Mapping[str, float] = field(default_factory=dict)


def train(
    method: str,
    data: str | Path | Dataset,
    *,
    protocol: str = "auto",
    fold: int = 0,
    split: str | Path | None = None,
    config: str | None = None,
    seed: int = 0,
    device: str = "auto",
    runs: str | Path = "runs",
    name: str | None = None,
    resume: bool = False,
    **settings: Any,
) -> Run:
    """Train a method on one fold, predict its validation and test part, and evaluate it.

    The same as `toolkit train METHOD` or `toolkit finetune METHOD`, with the same defaults.

    Example:
        >>> run = toolkit.train("patchcore", "mvtec/bottle", protocol="official",
        ...                     coreset_size=1000)  # doctest: +SKIP
        >>> run.metrics()["image"]["auroc"]  # doctest: +SKIP
        1.0

    Args:
        method: name of the method, such as `patchcore`, `classifier`, `yolo` or `sam`.
        data: folder of the data set, or the data set.
        protocol: `supervised`, `official`, `balanced`, or `auto`: `official` where the data set
            has no defects, else `supervised`. See `toolkit.make_split`.
        fold: the fold that is tested.
        split: split file; the protocol's own split if None.
        config: config file, or the name of one that ships; `<method>/default` if None.
        seed: seed of all random numbers.
        device: `auto`, `cpu`, `cuda` or `mps`.
        runs: folder of all runs.
        name: name of the run; numbered if None.
        resume: continue the run of this name if it is there.
        **settings: settings of the method, and runs that it reads (`prompt_run`, `decoder_run`),
            or their directories.

    Returns:
        The finished run.

    Raises:
        ConfigError: unknown method or setting, or a value of the wrong type.
        DataError: the data set cannot be used with this protocol or method.
        RunError: a run of this name exists and is not resumed, or was made with other settings.
        WeightsError: pretrained weights cannot be had.
    """
    from toolkit.data.layouts import load_dataset
    from toolkit.data.protocols import make_plan
    from toolkit.data.shortcuts import warnings_of
    from toolkit.data.splits import SplitPlan
    from toolkit.data.validate import validate_dataset

    if resume and name is None:
        raise ConfigError("resume: needs the name of the run to continue")
    roles = method_class(method).inputs
    given = {key: settings.pop(key) for key in list(settings) if key in roles}
    inputs = {key: one.path if isinstance(one, Run) else one for key, one in given.items()}
    named, values, source = read_method_config(config or f"{method}/default", settings)
    if named != method:
        raise ConfigError(f"{source}: is a config of {named}, not of {method}")
    if settings:
        source += " with the options given"
    dataset = data if isinstance(data, Dataset) else load_dataset(data)
    validate_dataset(dataset)
    if split is not None:
        plan = SplitPlan.read(Path(split))
    else:
        seen = make_method(method, values, source=source).seen_images()
        plan = make_plan(dataset, protocol=protocol, seen_images=seen)
    task = TrainingTask(
        method=method,
        entry=name or method,
        settings=values,
        source=source,
        fold=fold,
        seed=seed,
        device=device,
        name=name,
        inputs={role: str(Path(run).resolve()) for role, run in inputs.items() if run},
        warnings=warnings_of(dataset),
    )
    return run_training(task, plan.fold(dataset, fold), runs=Path(runs), resume=resume)


def run_training(task: TrainingTask, split: Split, *, runs: Path, resume: bool = False) -> Run:
    """Carry out one training task; a finished run is returned as it is when resuming.

    Args:
        task: the method, its settings and the name of the run.
        split: the fold that the task names.
        runs: folder of all run directories.
        resume: continue the run of this name if it is there.

    Raises:
        ToolkitError: wrong settings or data; where nothing was trained yet, nothing is left.
    """
    if not 0 <= task.seed < _SEEDS:
        raise ConfigError(f"seed {task.seed}: choose one from 0 to {_SEEDS - 1}")
    method = make_method(task.method, task.settings, source=task.source)
    if task.budget is not None:
        split = split.with_budget(task.budget)
    run, new = open_run(task, method, split, runs, resume=resume)
    if run.finished:
        return run
    with run.lock():
        run = Run.open(run.path)  # another process may have finished it before
        if not run.finished:
            fit_run(method, split, run, new=new)
            predict_and_finish(method, split, run, entry=task.entry)
    return run


def fit_run(method: Method[Any], split: Split, run: Run, *, new: bool) -> None:
    """Fit a method, and record time and size; a new run is removed where its input is wrong."""
    seed_everything(run.seed)
    keep_freed_memory()
    forget_peak_memory()
    started = time.perf_counter()
    try:
        method.fit(split, run)
    except (ConfigError, DataError, MissingExtraError, WeightsError):
        # The name stays free for the corrected command.
        if new and not run.results():
            run.discard()
        raise
    fit_seconds = run.metadata.get("fit_seconds", 0.0) + time.perf_counter() - started
    run.update_metadata(fit_seconds=round(fit_seconds, 2), checkpoint_bytes=checkpoint_bytes(run))


def predict_and_finish(method: Method[Any], split: Split, run: Run, *, entry: str) -> None:
    """Predict the validation and the test part with a fitted run, and evaluate it.

    They are predicted in the engine that later predictions take (`toolkit.inference.engines`), so
    that threshold and metrics are those of what is used. An engine is compared with torch on the
    validation part, which torch then predicts first.
    """
    predictor = method.load(run)

    def predict(part: str, samples: Sequence[Sample]) -> None:
        predictions = predict_samples(predictor, samples)
        tracked = track(predictions, f"{entry}: predict {part}", len(samples))
        with phase(run, PREDICT):
            write_predictions(run.predictions, part, tracked)

    graph = predictor.graph()
    if graph is None or graph.shared is None:
        predict("val", split.val)
    with phase(run, ENGINE):
        fast, engine = use_engine(predictor, run, default_engine(), dataset=split.dataset)
    if fast is not predictor or (graph is not None and graph.shared is not None):
        predictor = fast
        predict("val", split.val)
    predict("test", split.test)
    if engine == "torch" and predictor.precision != "float32":
        engine = f"torch {predictor.precision}"
    with phase(run, EVALUATE):
        write_json(run.path / REPORT, dict(method.report(split, run)))
        # Before the metrics, which hold it too.
        run.update_metadata(engine=engine, peak_memory_mb=round(peak_memory_bytes() / 2**20))
        metrics = evaluate(run, split.dataset)
    run.finish(metrics)


def read_method_config(name: str, overrides: Mapping[str, Any]) -> tuple[str, dict[str, Any], str]:
    """Read a method's config file.

    Returns:
        The method's name, its settings with the overrides applied, and the file's path.

    Raises:
        ConfigError: missing, or without a `method`.
    """
    file = find_config(name)
    content = read_yaml(file)
    if "method" not in content:
        raise ConfigError(f"{file}: no 'method:' line; see the files in configs/")
    method = str(content.pop("method"))
    return method, {**content, **overrides}, str(file)


def open_run(
    task: TrainingTask, method: Method[Any], split: Split, runs: Path, *, resume: bool
) -> tuple[Run, bool]:
    """Return the run of a task, and whether it is new."""
    settings = settings_dict(method.settings)
    path = runs / task.method / task.name if task.name else None
    # Absolute, because a finished run predicts from any working folder.
    inputs = {role: str((runs / name).resolve()) for role, name in task.inputs.items()}
    if resume and path is not None and (path / "run.json").is_file():
        run = Run.open(path)
        _check_same(run, method, split, inputs, task)
        if "labels" not in run.metadata:  # stopped between the first two writes
            _record_task(run, method, split, task)
        return run, False
    for role, place in inputs.items():
        if role not in method.inputs:
            raise RunError(f"{task.method} takes no {role}")
        if not Run.open(place).finished:
            raise RunError(f"{place}: not finished, so it cannot be the {role} of {task.entry}")
    run = Run.create(
        runs,
        method=task.method,
        settings=settings,
        split={
            "hash": split.plan_hash,
            "protocol": split.protocol,
            "fold": split.fold,
            "train": [s.id for s in split.train],
            "val": [s.id for s in split.val],
            "test": [s.id for s in split.test],
            "train_sha256": sorted({split.dataset.content[s.id] for s in split.train}),
        },
        data={
            "name": split.dataset.name,
            "root": str(split.dataset.root.resolve()),
            "layout": split.dataset.layout,
            "fingerprint": split.dataset.fingerprint,
        },
        seed=task.seed,
        device=choose_device(task.device),
        name=task.name,
        inputs=inputs,
    )
    _record_task(run, method, split, task)
    return run, True


def _record_task(run: Run, method: Method[Any], split: Split, task: TrainingTask) -> None:
    run.update_metadata(
        entry=task.entry,
        score_description=method.score_description,
        labels=labels_used(method, split),
        data_warnings=list(task.warnings),
    )
    if task.budget is not None:
        run.update_metadata(budget=task.budget, base_entry=task.base_entry or task.entry)


def labels_used(method: Method[Any], split: Split) -> dict[str, Any]:
    """Return the kind of labels that a method uses, and the defect images of each part."""
    defects = sum(s.is_defect for s in split.train) if method.labels != "none" else 0
    return {
        "kind": method.labels,
        "train": defects,
        "val": sum(s.is_defect for s in split.val),
    }


def _check_same(
    run: Run, method: Method[Any], split: Split, inputs: Mapping[str, str], task: TrainingTask
) -> None:
    stored = run.record
    # A setting that did not exist when the run was made stands at its default in it.
    before = {**settings_dict(method.Settings()), **stored["settings"]}
    settings = settings_dict(method.settings)
    differing = [key for key, value in settings.items() if before[key] != value]
    if differing:
        raise RunError(
            f"{run.path}: was made with another {differing[0]}; choose another --name or --runs"
        )
    here = (split.plan_hash, split.fold, task.seed)
    if here != (stored["split"]["hash"], stored["split"]["fold"], stored["seed"]):
        raise RunError(
            f"{run.path}: was made with another split or seed; choose another --name or --runs"
        )
    if run.metadata.get("budget", task.budget) != task.budget:
        raise RunError(f"{run.path}: was made with another budget; choose another --name or --runs")
    # The hash of a split does not cover masks.
    if stored["data"]["fingerprint"] != split.dataset.fingerprint:
        raise RunError(f"{run.path}: was made with other data; choose another --name or --runs")
    read = {role: str(Path(place).resolve()) for role, place in stored["inputs"].items()}
    if read != dict(inputs):
        role = next(r for r in {**read, **inputs} if read.get(r) != inputs.get(r))
        raise RunError(f"{run.path}: was made with another {role}; choose another --name or --runs")

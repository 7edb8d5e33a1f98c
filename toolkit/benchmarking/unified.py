"""One model for many products: a good-only method fitted on all categories, judged on each."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolkit.benchmarking.grid import BenchmarkConfig, training_tasks
from toolkit.data.splits import Split
from toolkit.data.types import Dataset, Sample
from toolkit.errors import RunError
from toolkit.methods.registry import make_method, method_class
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, fit_run, open_run, predict_and_finish

SUFFIX = "-unified"
_OWN = frozenset({"entry", "base_entry", "labels", "data_warnings", "peak_memory_mb"})
"""Metadata that belongs to the run of one category."""


def unified_tasks(config: BenchmarkConfig, *, device: str) -> list[TrainingTask]:
    """Return the tasks of the good-only entries that read no other run, once per fold and seed."""
    whole = replace(config, label_budgets=())
    return [
        replace(
            task,
            entry=f"{task.entry}{SUFFIX}",
            name=(task.name or "").replace(f"{task.entry}-fold", f"{task.entry}{SUFFIX}-fold"),
            base_entry=f"{task.base_entry}{SUFFIX}",
        )
        for task in training_tasks(whole, device=device)
        if method_class(task.method).labels == "none" and not task.inputs
    ]


def union_split(splits: Sequence[Split]) -> Split:
    """Return the parts of several splits joined; ids begin with the name of their data set.

    Args:
        splits: of data sets of different names, of one protocol and fold.
    """
    content: dict[str, str] = {}
    samples: list[Sample] = []
    parts: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
    for split in splits:
        renamed = {s.id: replace(s, id=f"{split.dataset.name}/{s.id}") for s in split.dataset}
        samples += renamed.values()
        content.update({renamed[k].id: digest for k, digest in split.dataset.content.items()})
        for part, chosen in parts.items():
            chosen += [renamed[s.id] for s in getattr(split, part)]
    roots = [str(split.dataset.root.resolve()) for split in splits]
    dataset = Dataset(
        name="+".join(split.dataset.name for split in splits),
        root=Path(os.path.commonpath(roots)),
        samples=tuple(sorted(samples, key=lambda s: s.id)),
        layout="union",
    )
    vars(dataset)["content"] = content  # hashed before
    hashes = "".join(split.plan_hash + split.dataset.fingerprint for split in splits)
    return Split(
        dataset=dataset,
        plan_hash=hashlib.sha256(hashes.encode()).hexdigest()[:12],
        protocol=splits[0].protocol,
        fold=splits[0].fold,
        seed=splits[0].seed,
        **{part: tuple(chosen) for part, chosen in parts.items()},
    )


def train_unified(task: TrainingTask, splits: Mapping[Path, Split]) -> list[Run]:
    """Fit one model on the training parts of all splits, and make a finished run of each.

    The first run fits; the others take its weights over. Finished runs are kept.

    Args:
        task: the method, its settings and the name of the runs.
        splits: the splits by the folder of their runs.

    Raises:
        ToolkitError: wrong settings or data, or the runs were made with other categories.
    """
    method = make_method(task.method, task.settings, source=task.source)
    union = union_split(list(splits.values()))
    made: list[Run] = []
    for folder, split in splits.items():
        run, new = open_run(task, method, split, folder, resume=True)
        _check_same_union(run, union, new=new)
        if not run.finished:
            with run.lock():
                run.update_metadata(
                    unified={"hash": union.plan_hash, "categories": union.dataset.name.split("+")}
                )
                if made:
                    _take_over(made[0], run)
                else:
                    fit_run(method, union, run, new=new)
                predict_and_finish(method, split, run, entry=task.entry)
        made.append(run)
    return made


def _check_same_union(run: Run, union: Split, *, new: bool) -> None:
    stored = run.metadata.get("unified", {})
    if not new and stored and stored.get("hash") != union.plan_hash:
        raise RunError(
            f"{run.path}: was fitted on {', '.join(stored.get('categories', ()))}; choose another "
            "--runs for other categories"
        )


def _take_over(fitted: Run, run: Run) -> None:
    """Copy weights and what is recorded of them."""
    shutil.copytree(fitted.path / "weights", run.path / "weights", dirs_exist_ok=True)
    run.update_metadata(**{k: v for k, v in fitted.metadata.items() if k not in _OWN})


def prices(runs: Sequence[Run]) -> list[str]:
    """Return one line per unified entry: what one model for all costs in points, and what it saves.

    Args:
        runs: finished runs of a benchmark with unified entries and the separate ones.
    """
    by_entry: dict[str, dict[tuple[str, int, int], Run]] = {}
    for run in runs:
        key = (run.record["data"]["name"], run.record["split"]["fold"], run.seed)
        by_entry.setdefault(str(run.metadata.get("entry", "")), {})[key] = run
    return [
        _price(name, by_entry[name.removesuffix(SUFFIX)], unified)
        for name, unified in by_entry.items()
        if name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in by_entry
    ]


def _price(name: str, separate: Mapping[Any, Run], unified: Mapping[Any, Run]) -> str:
    shared = [key for key in unified if key in separate]
    points = [
        100 * (a - b)
        for key in shared
        if (a := _auroc(unified[key])) is not None and (b := _auroc(separate[key])) is not None
    ]
    categories = len({key[0] for key in shared})
    mean = f"{sum(points) / len(points):+.1f} points of mean AUROC" if points else "no AUROC"
    # A unified model is fitted once and stored once, whatever the number of categories.
    models = {key[1:]: unified[key] for key in shared}
    texts = []
    for field, unit, scale in (("checkpoint_bytes", "MB", 1e-6), ("fit_seconds", "s fitting", 1)):
        one = sum(float(run.metadata.get(field) or 0) for run in models.values()) * scale
        all_of_them = sum(float(separate[k].metadata.get(field) or 0) for k in shared) * scale
        texts.append(f"{one:.0f} {unit} instead of {all_of_them:.0f}")
    return f"{name}: one model for {categories} categories: {mean}, {', '.join(texts)}"


def _auroc(run: Run) -> float | None:
    value = run.metrics().get("image", {}).get("auroc")
    return value if isinstance(value, float) else None

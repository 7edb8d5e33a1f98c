"""From a benchmark file (methods x folds x seeds x label budgets) to a list of training tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from toolkit.benchmarking.resources import parse_resources
from toolkit.config import build_settings, convert, find_config, read_yaml
from toolkit.data.splits import Budget
from toolkit.errors import ConfigError, did_you_mean
from toolkit.leaderboards.columns import KNOWN, TEXTS
from toolkit.methods.registry import method_class
from toolkit.training import TrainingTask, read_method_config

_KEYS = {
    "name",
    "protocol",
    "folds",
    "n_folds",
    "split_seed",
    "per_class",
    "seeds",
    "label_budgets",
    "columns",
    "part",
    "methods",
}
ROLES = ("prompt_run", "decoder_run")
"""What an entry may read of another one's runs."""
_ENTRY_KEYS = {"config", "name", "overrides", "published", "resources", *ROLES}


@dataclass(frozen=True)
class Entry:
    """One row of the leaderboard.

    Attributes:
        name: of the row.
        method: name of the method.
        settings: that differ from the method's defaults.
        source: the config's file.
        reads: names of the entries whose runs it reads, by role.
        published: `value` and `source` (and `column`) of a published result.
        resources: what a training occupies on a cluster: `cpus`, `gpus`, `memory` in bytes.
    """

    name: str
    method: str
    settings: Mapping[str, Any]
    source: str
    reads: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Any] | None = None
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkConfig:
    """The content of a benchmark file.

    Attributes:
        name: name of the benchmark; its runs lie in `runs/<name>/`.
        protocol: how the data is split.
        n_folds: number of folds of the split.
        split_seed: seed of the split.
        per_class: images per class of the protocol `balanced`.
        folds: the folds that are run; all if None.
        seeds: the seeds that are run.
        label_budgets: labelled defect images per type; empty for all images, without a study.
        columns: columns of the leaderboard; empty for the default ones.
        part: whose metrics its leaderboard displays: `val` for a study that chooses settings.
        entries: one per row of the leaderboard.
    """

    name: str = ""
    protocol: Literal["official", "supervised", "balanced"] = "supervised"
    n_folds: int = 5
    split_seed: int = 0
    per_class: int = 20
    folds: tuple[int, ...] | None = None
    seeds: tuple[int, ...] = (0,)
    label_budgets: tuple[Budget, ...] = ()
    columns: tuple[str, ...] = ()
    part: Literal["test", "val"] = "test"
    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("no seeds; give at least one")


def read_benchmark(path: str) -> BenchmarkConfig:
    """Read a benchmark file, or one that ships, such as `benchmark/demo`.

    Raises:
        ConfigError: missing, an unknown key, a value of the wrong type, a fold that the split does
            not have, or an entry that reads one that does not exist.
    """
    file = find_config(path)
    content = read_yaml(file)
    _check_keys(content, _KEYS, str(file))
    raw = content.pop("methods", None)
    if not isinstance(raw, list) or not raw:
        raise ConfigError(f"{file}: no methods; add at least one 'config:' entry")
    budgets = _parse_budgets(content.pop("label_budgets", ()), source=str(file))
    if content.get("folds") == "all":
        del content["folds"]
    values = build_settings(BenchmarkConfig, content, source=str(file))
    if values.protocol == "official":
        values = replace(values, n_folds=1)
    entries = tuple(_entry(one, file) for one in raw)
    _check_names(entries, file)
    return replace(
        values,
        name=values.name or file.stem,
        folds=_folds(values, file),
        seeds=tuple(dict.fromkeys(values.seeds)),
        label_budgets=budgets,
        columns=_columns(values.columns, file),
        entries=entries,
    )


def training_tasks(config: BenchmarkConfig, *, device: str = "auto") -> list[TrainingTask]:
    """List the tasks fold by fold, so that complete folds are comparable early.

    A task that reads another's run comes after it.
    """
    entries = _in_order(config.entries)
    budgets: dict[str, tuple[Budget | None, ...]] = {}
    for entry in entries:  # entries that are read come first
        own = budgets_of(entry.method, config.label_budgets)
        for theirs in (budgets[other] for other in entry.reads.values()):
            own = own if theirs == (0,) else tuple(k for k in own if k in theirs)
        budgets[entry.name] = own
    return [
        _task(entry, config, budgets, budget=budget, fold=fold, seed=seed, device=device)
        for seed in config.seeds
        for fold in config.folds or range(config.n_folds)
        for entry in entries
        for budget in budgets[entry.name]
    ]


def budgets_of(method: str, budgets: Sequence[Budget]) -> tuple[Budget | None, ...]:
    """Return the label budgets that a method is run with.

    A method that learns from good images only is run once, with 0; one that needs defects is not
    run with fewer than it needs.

    Args:
        method: name of the method.
        budgets: those of the study; empty without one.

    Returns:
        `(None,)` without a study: all training images.
    """
    if not budgets:
        return (None,)
    cls = method_class(method)
    if cls.labels == "none":
        return (0,)
    return tuple(k for k in budgets if k == "all" or k >= cls.min_defects)


def skipped_budgets(entry: str, method: str, budgets: Sequence[Budget]) -> str | None:
    """Return one line on the budgets that an entry is not run with; None if there are none."""
    missing = [str(k) for k in budgets if k not in budgets_of(method, budgets)]
    cls = method_class(method)
    if not missing or cls.labels == "none":
        return None
    return (
        f"{entry}: not run with k = {', '.join(missing)} (needs {cls.min_defects} defects of each "
        "type)"
    )


def _parse_budgets(raw: Any, *, source: str) -> tuple[Budget, ...]:
    """Convert whole numbers and `all`: sorted, each once, `all` last."""
    try:
        words = convert(raw, tuple[str, ...], "label_budgets")
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    wrong = [word for word in words if word != "all" and not word.isdecimal()]
    if wrong:
        raise ConfigError(
            f"{source}: label_budgets={wrong[0]}: give numbers of defect images per type, and 'all'"
        )
    numbers = sorted({int(word) for word in words if word != "all"})
    return (*numbers, *(("all",) if "all" in words else ()))


def _folds(values: BenchmarkConfig, file: Path) -> tuple[int, ...]:
    every = range(values.n_folds)
    if values.folds is None:
        return tuple(every)
    wrong = [fold for fold in values.folds if fold not in every]
    if wrong or not values.folds:
        named = f"fold {wrong[0]}: " if wrong else "no folds; "
        raise ConfigError(f"{file}: {named}the split has folds 0 to {values.n_folds - 1}")
    return tuple(dict.fromkeys(values.folds))


def _task(
    entry: Entry,
    config: BenchmarkConfig,
    budgets: Mapping[str, tuple[Budget | None, ...]],
    *,
    budget: Budget | None,
    fold: int,
    seed: int,
    device: str,
) -> TrainingTask:
    inputs = {}
    for role, other in entry.reads.items():
        method = next(e.method for e in config.entries if e.name == other)
        read_budget = budget if budget in budgets[other] else 0  # good-only: run once
        inputs[role] = f"{method}/{_run_name(other, read_budget, fold, seed)}"
    return TrainingTask(
        method=entry.method,
        entry=entry.name if budget is None else f"{entry.name} k={budget}",
        settings=entry.settings,
        source=entry.source,
        fold=fold,
        seed=seed,
        device=device,
        name=_run_name(entry.name, budget, fold, seed),
        inputs=inputs,
        base_entry=entry.name,
        budget=budget,
        resources={**method_class(entry.method).resources, **_gpu_of(device), **entry.resources},
    )


def _gpu_of(device: str) -> dict[str, float]:
    return {"gpus": 1.0} if device.startswith("cuda") else {}


def _run_name(entry: str, budget: Budget | None, fold: int, seed: int) -> str:
    labels = "" if budget is None else f"-k{budget}"
    return f"{entry}{labels}-fold{fold}-seed{seed}"


def _entry(raw: Any, file: Path) -> Entry:
    if not isinstance(raw, dict) or "config" not in raw:
        raise ConfigError(f"{file}: each method needs a 'config:' line")
    _check_keys(raw, _ENTRY_KEYS, str(file))
    overrides = raw.get("overrides") or {}
    if not isinstance(overrides, dict):
        raise ConfigError(f"{file}: 'overrides:' of {raw['config']} needs 'key: value' lines")
    method, settings, source = read_method_config(str(raw["config"]), overrides)
    return Entry(
        name=str(raw.get("name", raw["config"])).replace("/", "-"),
        method=method,
        settings=settings,
        source=source,
        reads={role: str(raw[role]) for role in ROLES if raw.get(role)},
        published=_published(raw, file),
        resources=parse_resources(raw.get("resources") or {}, source=f"{file}: {raw['config']}"),
    )


def _published(raw: Mapping[str, Any], file: Path) -> Mapping[str, Any] | None:
    """Read `published: 0.75`, or a mapping with `value` and perhaps `source` and `column`."""
    given = raw.get("published")
    if given is None:
        return None
    mapping = given if isinstance(given, dict) else {"value": given}
    _check_keys(mapping, {"value", "source", "column"}, f"{file}: published")
    value = mapping.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{file}: published: {value!r} of {raw['config']} is no number")
    if "column" in mapping:
        _columns((str(mapping["column"]),), file)
    return {**{key: str(text) for key, text in mapping.items()}, "value": value}


def _columns(names: Sequence[str], file: Path) -> tuple[str, ...]:
    for name in names:
        # A path into metrics.json can be checked only when there are metrics.
        if "." not in name and name not in KNOWN and name not in TEXTS:
            hint = did_you_mean(name, [*KNOWN, *TEXTS])
            raise ConfigError(f"{file}: columns: no column {name}{hint}")
    return tuple(dict.fromkeys(names))


def _check_names(entries: Sequence[Entry], file: Path) -> None:
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{file}: two methods are called {name}; give one a 'name:'")
    for entry in entries:
        for role, other in entry.reads.items():
            if other not in names:
                raise ConfigError(
                    f"{file}: {entry.name}: {role}: {other} is not there"
                    f"{did_you_mean(other, names)}"
                )
    try:
        _in_order(entries)
    except CycleError as error:
        raise ConfigError(
            f"{file}: {error.args[1][0]} reads its own run in the end; name another"
        ) from error


def _in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Sort entries so that each comes after those that it reads.

    Raises:
        CycleError: an entry reads itself in the end.
    """
    order = TopologicalSorter({entry.name: sorted(entry.reads.values()) for entry in entries})
    by_name = {entry.name: entry for entry in entries}
    return [by_name[name] for name in order.static_order()]


def _check_keys(content: Mapping[str, Any], keys: set[str], source: str) -> None:
    unknown = [str(key) for key in content if key not in keys]
    if unknown:
        raise ConfigError(f"{source}: unknown key '{unknown[0]}'{did_you_mean(unknown[0], keys)}")

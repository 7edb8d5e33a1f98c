"""From a YAML grid (methods x folds x seeds) to a list of independent tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from toolkit.benchmark.budget import budgets_of, parse_budgets
from toolkit.config import build_settings, find_config, read_yaml
from toolkit.data.splits import Budget
from toolkit.errors import ConfigError, did_you_mean
from toolkit.leaderboard.columns import KNOWN, TEXTS
from toolkit.training import TrainingTask

_KEYS = {
    "name",
    "protocol",
    "folds",
    "split_folds",
    "split_seed",
    "per_class",
    "seeds",
    "budgets",
    "columns",
    "methods",
}
ROLES = ("prompt_run", "decoder_run")
"""What an entry may read of another one's runs."""
_ENTRY_KEYS = {"config", "name", "set", "published", *ROLES}


@dataclass(frozen=True)
class Grid:
    """A benchmark as it stands in its file.

    Attributes:
        name: name of the benchmark; its runs lie in `runs/<name>/`.
        protocol: how the data is split.
        split_folds: number of folds of the split.
        split_seed: seed of the split.
        per_class: images per class of the protocol `balanced`.
        folds: the folds that are run.
        seeds: the seeds that are run.
        entries: one per row of the leaderboard.
        budgets: labelled defect images per type that are tried; empty: no study of labels.
        columns: what the leaderboard shows of these runs; empty: the usual columns.
    """

    name: str
    protocol: str
    split_folds: int
    split_seed: int
    per_class: int
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]
    budgets: tuple[Budget, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Values:
    """The plain keys of the file."""

    name: str = ""
    protocol: Literal["official", "supervised", "balanced"] = "supervised"
    split_folds: int = 5
    split_seed: int = 0
    per_class: int = 20
    folds: tuple[int, ...] | None = None
    seeds: tuple[int, ...] = (0,)
    budgets: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("no seeds; give at least one")


@dataclass(frozen=True)
class Entry:
    """One row of the leaderboard: a config, what is changed in it, what it reads and is set beside.

    Attributes:
        name: of the row.
        method: name of the method.
        settings: that differ from the method's defaults.
        source: the config's file.
        reads: names of the entries whose runs it reads, by role.
        published: `value` and `source` (and `column`) of a figure that others report.
    """

    name: str
    method: str
    settings: Mapping[str, Any]
    source: str
    reads: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Any] | None = None


def read_grid(path: str) -> Grid:
    """Read a benchmark file.

    Raises:
        ConfigError: missing, an unknown key, a value of the wrong type, a fold that the split has
            not, or an entry that leans on one that is not there.
    """
    file = find_config(path)
    content = read_yaml(file)
    _known(content, _KEYS, str(file))
    raw = content.pop("methods", None)
    if not isinstance(raw, list) or not raw:
        raise ConfigError(f"{file}: no methods; add at least one 'config:' entry")
    if content.get("folds") == "all":
        del content["folds"]
    values = build_settings(_Values, content, source=str(file))
    if values.protocol == "official":
        values = replace(values, split_folds=1)
    entries = tuple(_entry(one, file) for one in raw)
    _check_names(entries, file)
    return Grid(
        name=values.name or file.stem,
        protocol=values.protocol,
        split_folds=values.split_folds,
        split_seed=values.split_seed,
        per_class=values.per_class,
        folds=_folds(values, file),
        seeds=tuple(dict.fromkeys(values.seeds)),
        entries=entries,
        budgets=parse_budgets(values.budgets, source=str(file)),
        columns=_columns(values.columns, file),
    )


def _folds(values: _Values, file: Path) -> tuple[int, ...]:
    every = range(values.split_folds)
    if values.folds is None:
        return tuple(every)
    wrong = [fold for fold in values.folds if fold not in every]
    if wrong or not values.folds:
        named = f"fold {wrong[0]}: " if wrong else "no folds; "
        raise ConfigError(f"{file}: {named}the split has folds 0 to {values.split_folds - 1}")
    return tuple(dict.fromkeys(values.folds))


def expand(grid: Grid, *, device: str = "auto") -> list[TrainingTask]:
    """List the tasks, fold by fold, so that whole folds are comparable early.

    A task that reads another's run comes after it.
    """
    entries = _in_order(grid.entries)
    budgets = _budgets(entries, grid.budgets)
    return [
        _task(entry, grid, budgets, budget=budget, fold=fold, seed=seed, device=device)
        for seed in grid.seeds
        for fold in grid.folds
        for entry in entries
        for budget in budgets[entry.name]
    ]


def _budgets(
    entries: Sequence[Entry], wanted: Sequence[Budget]
) -> dict[str, tuple[Budget | None, ...]]:
    """Return the budgets of each entry: what reads runs has no more than what it reads."""
    found: dict[str, tuple[Budget | None, ...]] = {}
    for entry in entries:  # what is leant on comes first
        own = budgets_of(entry.method, wanted)
        for theirs in (found[other] for other in entry.reads.values()):
            own = own if theirs == (0,) else tuple(k for k in own if k in theirs)
        found[entry.name] = own
    return found


def _task(
    entry: Entry,
    grid: Grid,
    budgets: Mapping[str, tuple[Budget | None, ...]],
    *,
    budget: Budget | None,
    fold: int,
    seed: int,
    device: str,
) -> TrainingTask:
    inputs = {}
    for role, other in entry.reads.items():
        method = next(e.method for e in grid.entries if e.name == other)
        lent = budget if budget in budgets[other] else 0  # good-only: run once
        inputs[role] = f"{method}/{_run_name(other, lent, fold, seed)}"
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
    )


def read_method_config(name: str, changes: Mapping[str, Any]) -> tuple[str, dict[str, Any], str]:
    """Read a method's config file.

    Returns:
        The method's name, its settings with the changes applied, and the file's path.

    Raises:
        ConfigError: missing, or without a `method`.
    """
    file = find_config(name)
    content = read_yaml(file)
    if "method" not in content:
        raise ConfigError(f"{file}: no 'method:' line; see the files in configs/")
    method = str(content.pop("method"))
    return method, {**content, **changes}, str(file)


def _entry(raw: Any, file: Path) -> Entry:
    if not isinstance(raw, dict) or "config" not in raw:
        raise ConfigError(f"{file}: each method needs a 'config:' line")
    _known(raw, _ENTRY_KEYS, str(file))
    changes = raw.get("set") or {}
    if not isinstance(changes, dict):
        raise ConfigError(f"{file}: 'set:' of {raw['config']} needs 'key: value' lines")
    method, settings, source = read_method_config(str(raw["config"]), changes)
    return Entry(
        name=str(raw.get("name", raw["config"])).replace("/", "-"),
        method=method,
        settings=settings,
        source=source,
        reads={role: str(raw[role]) for role in ROLES if raw.get(role)},
        published=_published(raw, file),
    )


def _published(raw: Mapping[str, Any], file: Path) -> Mapping[str, Any] | None:
    """Read `published: 0.75`, or a mapping with `value` and perhaps `source` and `column`."""
    said = raw.get("published")
    if said is None:
        return None
    mapping = said if isinstance(said, dict) else {"value": said}
    _known(mapping, {"value", "source", "column"}, f"{file}: published")
    value = mapping.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{file}: published: {value!r} of {raw['config']} is no number")
    if "column" in mapping:
        _columns((str(mapping["column"]),), file)
    return {**{key: str(text) for key, text in mapping.items()}, "value": value}


def _columns(names: Sequence[str], file: Path) -> tuple[str, ...]:
    for name in names:
        # A path into metrics.json can be told right only when there are metrics.
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
    """Sort what is read before what reads it.

    Raises:
        CycleError: an entry reads itself in the end.
    """
    order = TopologicalSorter({entry.name: sorted(entry.reads.values()) for entry in entries})
    by_name = {entry.name: entry for entry in entries}
    return [by_name[name] for name in order.static_order()]


def _run_name(entry: str, budget: Budget | None, fold: int, seed: int) -> str:
    told = "" if budget is None else f"-k{budget}"
    return f"{entry}{told}-fold{fold}-seed{seed}"


def _known(content: Mapping[str, Any], keys: set[str], source: str) -> None:
    unknown = [str(key) for key in content if key not in keys]
    if unknown:
        raise ConfigError(f"{source}: unknown key '{unknown[0]}'{did_you_mean(unknown[0], keys)}")

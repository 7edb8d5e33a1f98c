"""From a YAML grid (methods x folds x seeds) to a list of independent tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.benchmark.task import Task
from toolkit.config import find_config, read_yaml
from toolkit.errors import ConfigError, did_you_mean

_KEYS = {"name", "protocol", "folds", "split_folds", "split_seed", "per_class", "seeds", "methods"}
_ENTRY_KEYS = {"config", "name", "set", "prompts_from"}


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
    """

    name: str
    protocol: str
    split_folds: int
    split_seed: int
    per_class: int
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Entry:
    """One row of the leaderboard: a config, what is changed in it, and what it reads."""

    name: str
    method: str
    settings: Mapping[str, Any]
    source: str
    prompts_from: str | None


def read_grid(path: str) -> Grid:
    """Read a benchmark file.

    Raises:
        ConfigError: missing, an unknown key, or an entry that leans on one that is not there.
    """
    file = find_config(path)
    content = read_yaml(file)
    _known(content, _KEYS, str(file))
    if not content.get("methods"):
        raise ConfigError(f"{file}: no methods; add at least one 'config:' entry")
    split_folds = 1 if content.get("protocol") == "official" else content.get("split_folds", 5)
    folds = content.get("folds", "all")
    entries = tuple(_entry(raw, file) for raw in content["methods"])
    _check_names(entries, file)
    return Grid(
        name=str(content.get("name", file.stem)),
        protocol=str(content.get("protocol", "supervised")),
        split_folds=split_folds,
        split_seed=content.get("split_seed", 0),
        per_class=content.get("per_class", 20),
        folds=tuple(range(split_folds)) if folds == "all" else tuple(folds),
        seeds=tuple(content.get("seeds", [0])),
        entries=entries,
    )


def expand(grid: Grid, *, device: str = "auto") -> list[Task]:
    """List the tasks, fold by fold, so that whole folds are comparable early.

    A task that reads another's run comes after it.
    """
    methods = {entry.name: entry.method for entry in grid.entries}
    tasks = []
    for seed in grid.seeds:
        for fold in grid.folds:
            for entry in _in_order(grid.entries):
                inputs = {}
                if entry.prompts_from is not None:
                    other = _run_name(entry.prompts_from, fold, seed)
                    inputs["prompts_from"] = f"{methods[entry.prompts_from]}/{other}"
                tasks.append(
                    Task(
                        method=entry.method,
                        entry=entry.name,
                        settings=entry.settings,
                        source=entry.source,
                        fold=fold,
                        seed=seed,
                        device=device,
                        name=_run_name(entry.name, fold, seed),
                        inputs=inputs,
                    )
                )
    return tasks


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
    method, settings, source = read_method_config(str(raw["config"]), raw.get("set") or {})
    return Entry(
        name=str(raw.get("name", raw["config"])).replace("/", "-"),
        method=method,
        settings=settings,
        source=source,
        prompts_from=raw.get("prompts_from"),
    )


def _check_names(entries: Sequence[Entry], file: Path) -> None:
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{file}: two methods are called {name}; give one a 'name:'")
    for entry in entries:
        if entry.prompts_from is not None and entry.prompts_from not in names:
            raise ConfigError(
                f"{file}: {entry.name} takes prompts from {entry.prompts_from}, which is not "
                f"there{did_you_mean(entry.prompts_from, names)}"
            )


def _in_order(entries: Sequence[Entry]) -> list[Entry]:
    alone = [e for e in entries if e.prompts_from is None]
    return alone + [e for e in entries if e.prompts_from is not None]


def _run_name(entry: str, fold: int, seed: int) -> str:
    return f"{entry}-fold{fold}-seed{seed}"


def _known(content: Mapping[str, Any], keys: set[str], source: str) -> None:
    unknown = [key for key in content if key not in keys]
    if unknown:
        raise ConfigError(f"{source}: unknown key '{unknown[0]}'{did_you_mean(unknown[0], keys)}")

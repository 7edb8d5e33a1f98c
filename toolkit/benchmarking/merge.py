"""Join the runs of several machines into one folder, and name what does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.benchmarking.plan import SPLIT_FILE
from toolkit.errors import RunError, ToolkitError
from toolkit.files import atomic_folder, read_json, write_json
from toolkit.leaderboards.benchmark_files import read_display, write_display
from toolkit.leaderboards.collect import check_run
from toolkit.runs.run import LOCK_FILE, Run, find_runs
from toolkit.verification.checksums import update_checksums


@dataclass(frozen=True)
class Merged:
    """What `merge_runs` has done.

    Attributes:
        runs: in the folder, those that were there before included.
        left_out: one line per run that does not fit.
        notes: one line per difference that does not forbid a comparison.
    """

    runs: tuple[Run, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def merge_runs(places: Sequence[Path], out: Path) -> Merged:
    """Copy the finished runs below several folders into one, keeping the paths below each.

    The first run of a data set decides which split the others must have. A run that is in two
    folders is taken once; two different runs of one name are not joined. A later call adds to the
    folder.

    Example:
        >>> merge_runs([Path("node1/runs/mvtec"), Path("node2/runs/mvtec")],
        ...            Path("runs/mvtec"))  # doctest: +SKIP

    Args:
        places: folders of runs, such as `runs/<benchmark>` of each machine.
        out: the folder to join them in.

    Raises:
        RunError: there is no such folder, or no run in it.
        OutputError: the folder cannot be written.
    """
    found: list[tuple[Path, Path]] = []
    for place in places:
        if not place.is_dir():
            raise RunError(f"{place}: no such folder; give folders of runs")
        paths = find_runs([place])
        if not paths:
            raise RunError(f"{place}: no run there; give folders of runs")
        found += [(place, path) for path in paths]
    accepted = {path.relative_to(out): Run.open(path) for path in find_runs([out])}
    left_out: list[str] = []
    notes: list[str] = []
    new: dict[Path, Run] = {}
    for place, path in found:
        relative = path.relative_to(place) if path != place else Path(*path.parts[-2:])
        try:
            run = Run.open(path)
            check_run(run)
            twin = accepted.get(relative)
            if twin is None:
                _check_fits(run, list(accepted.values()), notes)
            elif not _same(run, twin):
                raise RunError(f"{path}: another run than {twin.path} of the same name; rename one")
        except ToolkitError as error:
            left_out.append(str(error))
            continue
        if twin is None:
            accepted[relative] = new[relative] = run
    for relative, run in new.items():
        _copy(run, out / relative)
    for relative in new:
        _point_inputs(Run.open(out / relative), out)
    _join_files(places, out)
    runs = tuple(Run.open(out / relative) for relative in sorted(accepted))
    return Merged(runs, tuple(left_out), tuple(dict.fromkeys(notes)))


def _check_fits(run: Run, others: Sequence[Run], notes: list[str]) -> None:
    record = run.record
    same_data = [one for one in others if one.record["data"]["name"] == record["data"]["name"]]
    if not same_data:
        return
    first = same_data[0]
    if record["split"]["hash"] != first.record["split"]["hash"]:
        raise RunError(
            f"{run.path}: split {record['split']['hash']}, not {first.record['split']['hash']} of "
            f"{first.path}; make the runs with the same split"
        )
    if record["data"]["fingerprint"] != first.record["data"]["fingerprint"]:
        raise RunError(
            f"{run.path}: was made with other data than {first.path} (fingerprint "
            f"{record['data']['fingerprint'][:12]}, not {first.record['data']['fingerprint'][:12]})"
        )
    own, theirs = run.record["environment"], first.record["environment"]
    if own.get("toolkit") != theirs.get("toolkit"):
        raise RunError(
            f"{run.path}: made by version {own.get('toolkit')} of inspection-toolkit, not "
            f"{theirs.get('toolkit')} as {first.path}; train again with one version"
        )
    here, there = own.get("packages", {}), theirs.get("packages", {})
    differing = [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
    if differing:
        text = ", ".join(f"{key} {there.get(key)} and {here.get(key)}" for key in differing)
        notes.append(f"runs were made with different versions: {text}")


def _same(one: Run, other: Run) -> bool:
    """Return whether two runs predict the same; inputs may lie elsewhere."""
    keys = ("method", "settings", "seed", "split", "started")
    return all(one.record.get(key) == other.record.get(key) for key in keys)


def _copy(run: Run, target: Path) -> None:
    """Copy a run; it appears whole or not at all."""
    with atomic_folder(target) as folder:
        shutil.copytree(
            run.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(LOCK_FILE)
        )


def _point_inputs(run: Run, out: Path) -> None:
    """Let a run read the copies of the runs that it was made with, which lay elsewhere."""
    inputs = run.record["inputs"]
    here = {}
    for role, place in inputs.items():
        beside = run.path.parents[1] / Path(*Path(place).parts[-2:])
        here[role] = str((beside if (beside / "run.json").is_file() else Path(place)).resolve())
    if here != inputs:
        run.record["inputs"] = here
        write_json(run.path / "run.json", run.record)
        update_checksums(run.path, "run.json")


def _join_files(places: Sequence[Path], out: Path) -> None:
    """Join the display settings of benchmarks; keep their splits, so that they can be resumed."""
    for place in places:
        for split in sorted(place.rglob(SPLIT_FILE)):
            target = out / split.parent.relative_to(place)
            display = read_display(split.parent)
            if not target.is_dir():
                continue
            if display:
                write_display(target, {**display, **read_display(target)})
            if not (target / SPLIT_FILE).is_file():
                write_json(target / SPLIT_FILE, read_json(split))

"""The run directory: all records of one training, in files that a person can read.

    runs/<method>/<name>/   run.json  results.csv  log.txt  checksums.json  metrics.json
                            predictions/  weights/  plots/

`run.json` is written first; the run counts as finished only when `metrics.json` exists.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.errors import RunError, printable
from toolkit.files import (
    OutputError,
    atomic_write,
    json_text,
    read_json,
    remove_leftovers,
    write_json,
    write_text,
)
from toolkit.runs.environment import environment
from toolkit.verification.checksums import update_checksums, write_checksums

SCHEMA = 2
LOCK_FILE = ".lock"
_REQUIRED = ("method", "settings", "seed", "device", "data", "split", "inputs", "metadata")


class LockedRunError(RunError):
    """Another process works on the run."""


@dataclass
class Run:
    """One run directory.

    Attributes:
        path: the directory.
        record: the content of `run.json`: `method`, `settings`, `seed`, `device`, `data`, `split`,
            `environment`, and `metadata` that the method adds (weights and their source, times).
    """

    path: Path
    record: dict[str, Any] = field(repr=False)

    @classmethod
    def create(
        cls,
        root: Path,
        *,
        method: str,
        settings: Mapping[str, Any],
        split: Mapping[str, Any],
        data: Mapping[str, Any],
        seed: int = 0,
        device: str = "cpu",
        name: str | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> Run:
        """Make a new run directory and write its `run.json`.

        Args:
            root: the folder of all runs.
            method: name of the method.
            settings: the method's settings, as plain values.
            split: `hash`, `protocol`, `fold`, the sample ids of each part, and `train_sha256`, the
                SHA-256 of the training images.
            data: `name`, `root` and `fingerprint` of the data set.
            seed: seed of all random numbers.
            device: torch device.
            name: name of the run; `001`, `002`, … if None.
            inputs: run directories that this run reads, by role (`prompt_run`).

        Raises:
            RunError: a run of that name is there already, or the name is no name of a folder.
            OutputError: the folder cannot be made.
        """
        path = _new_folder(root / method, name)
        record = {
            "schema": SCHEMA,
            "method": method,
            "name": path.name,
            "settings": dict(settings),
            "seed": seed,
            "device": device,
            "data": dict(data),
            "split": dict(split),
            "inputs": dict(inputs or {}),
            "environment": environment(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "metadata": {},
        }
        run = cls(path=path, record=record)
        run._save()
        return run

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Open an existing run directory.

        Raises:
            RunError: no run there, or of another schema version.
        """
        path = Path(path)
        file = path / "run.json"
        if not file.is_file():
            raise RunError(f"{path}: not a run directory (no run.json); see runs/<method>/<name>")
        record = read_json(file)
        schema = record.get("schema") if isinstance(record, dict) else None
        if schema != SCHEMA:
            raise RunError(
                f"{file}: of schema {schema}, made by an older or newer version; this one reads "
                f"{SCHEMA}: train again"
            )
        missing = [key for key in _REQUIRED if key not in record]
        if missing:
            raise RunError(f"{file}: damaged (no {missing[0]}); make the run again")
        return cls(path=path, record=record)

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.record["method"])

    @property
    def seed(self) -> int:
        """Seed of all random numbers."""
        return int(self.record["seed"])

    @property
    def device(self) -> str:
        """Torch device."""
        return str(self.record["device"])

    @property
    def metadata(self) -> dict[str, Any]:
        """Values recorded during training; change them with `update_metadata`."""
        metadata: dict[str, Any] = self.record["metadata"]
        return metadata

    @property
    def finished(self) -> bool:
        """Whether the run has been evaluated."""
        return (self.path / "metrics.json").is_file()

    @property
    def weights(self) -> Path:
        """The folder of checkpoints (made on first use, while the run is not finished)."""
        return self._folder("weights")

    @property
    def plots(self) -> Path:
        """The folder of plots (made on first use, while the run is not finished)."""
        return self._folder("plots")

    @property
    def predictions(self) -> Path:
        """The folder of stored predictions (made on first use, while the run is not finished)."""
        return self._folder("predictions")

    def input(self, role: str) -> Run | None:
        """Open the run that plays a role for this one, such as `prompt_run`; None if none."""
        named = self.record["inputs"].get(role)
        return Run.open(named) if named else None

    def update_metadata(self, **values: Any) -> None:
        """Add values to `run.json`; a later one of the same name replaces the earlier.

        Raises:
            RunError: the run is finished.
        """
        if self.finished:
            raise RunError(f"{self.path}: finished, so nothing may write into it; train a new run")
        self.metadata.update(values)
        self._save()

    def log(self, message: str) -> None:
        """Append one line, with the time, to `log.txt`."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {message}\n")

    def add_result(self, row: Mapping[str, float | int | str]) -> None:
        """Write one row (one epoch) to `results.csv`; a row of the same epoch is replaced."""
        path = self.path / "results.csv"
        rows: list[Mapping[str, Any]] = [
            old for old in self.results() if old.get("epoch") != str(row.get("epoch"))
        ]
        rows.append(row)
        columns = list(dict.fromkeys(key for r in rows for key in r))
        with (
            atomic_write(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)

    def results(self) -> list[dict[str, str]]:
        """Return the rows of `results.csv`, oldest first; empty if there is none."""
        path = self.path / "results.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def metrics(self) -> dict[str, Any]:
        """Return the content of `metrics.json`.

        Raises:
            RunError: the run is not finished, or the file is damaged.
        """
        if not self.finished:
            raise RunError(f"{self.path}: not finished (no metrics.json); continue with --resume")
        metrics = read_json(self.path / "metrics.json")
        if not isinstance(metrics, dict):
            raise RunError(
                f"{self.path}/metrics.json: damaged; write it again with: toolkit evaluate "
                f"{self.path}"
            )
        return metrics

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write `metrics.json`, which marks the run as finished, behind the run's checksums.

        Of a run that is finished already the other files are not looked at: damage stays visible.
        """
        text = {"metrics.json": json_text(dict(metrics))}
        if self.finished:
            update_checksums(self.path, texts=text)
        else:
            write_checksums(self.path, texts=text)
        write_text(self.path / "metrics.json", text["metrics.json"])

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's lock file, so that no second process works on the same run.

        The operating system frees the lock of a process that has died.

        Example:
            >>> with run.lock():  # doctest: +SKIP
            ...     run = Run.open(run.path)  # another process may have finished it before

        Raises:
            LockedRunError: another process holds the lock.
        """
        import fcntl

        path = self.path / LOCK_FILE
        while True:
            with path.open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise LockedRunError(
                        f"{self.path}: another process is training this run; wait for it, or "
                        "choose another --name or --runs"
                    ) from error
                # The last holder may have removed the file after it was opened here.
                if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    continue
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return

    def discard(self) -> None:
        """Remove the directory of a run that holds nothing yet, so that its name is free again."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        if not self.finished:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{folder}: cannot be written ({error.strerror})") from error
        return folder

    def _save(self) -> None:
        write_json(self.path / "run.json", self.record)


def find_runs(places: list[Path]) -> list[Path]:
    """Return all run directories at or below the given places, sorted.

    Raises:
        RunError: a folder cannot be searched.
    """
    try:
        found = {file.parent for place in places for file in place.rglob("run.json")}
    except OSError as error:  # those of missing rights are passed over
        where = printable(error.filename or places[0])
        raise RunError(f"{where}: cannot be searched ({error.strerror}); name runs") from error
    return sorted(found)


def _new_folder(folder: Path, name: str | None) -> Path:
    """Make a new folder; two processes never get the same one."""
    if name is not None and (name != Path(name).name or name in ("", "..")):
        raise RunError(f"--name {name}: not a plain name; choose one without slashes")
    while True:
        path = folder / (name if name is not None else _next_number(folder))
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            if name is not None and path.is_dir():
                remove_leftovers(path)
                if not any(path.iterdir()):
                    return path  # left by a run that was stopped before its first file
            if name is not None:
                raise RunError(
                    f"{path}: a run of this name exists; choose another --name or --resume"
                ) from error
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
        else:
            return path


def _next_number(folder: Path) -> str:
    taken = [int(f.name) for f in folder.glob("*") if re.fullmatch(r"\d+", f.name)]
    return f"{max(taken, default=0) + 1:03d}"

"""The executor of a Ray cluster: each task is a Ray task with its resources.

A worker that is lost is replaced: Ray starts the task again, and the task continues what its run
directory holds. Wrong input is an outcome and is not tried again.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import TextIOBase
from pathlib import Path
from typing import Any, TextIO, TypeVar

from toolkit import __version__
from toolkit.benchmarking.executors import Outcome, nothing
from toolkit.cluster import HEAD, check_same_version, ray_cluster
from toolkit.errors import RunError, ToolkitError
from toolkit.progress import progress, share_terminal

T = TypeVar("T")
R = TypeVar("R")

_LINE_EVERY_SECONDS = 5.0  # of each task
_POLL_SECONDS = 0.5
_OWN_VARIABLES = "TOOLKIT_"


@dataclass(frozen=True)
class _Context:
    """What a worker needs to know of the command that has sent a task."""

    version: str
    folder: str
    variables: Mapping[str, str]
    threads: int
    log: str | None


class RayExecutor:
    """Runs tasks on the nodes of a Ray cluster.

    The folders that tasks read and write must be reachable from all nodes under the same path.
    Interrupted, it cancels what runs; what is finished stays.

    Args:
        address: see `ray_cluster`.
        resources: returns what a task occupies: `cpus`, `gpus`, `memory` in bytes.
        title: returns the name of a task.
        logs: folder for the output of each task, `<title>.txt`; None keeps it in Ray's own logs.
        retries: how often a task is started again whose worker was lost.
        say: receives a line per event and the latest line of each task.
    """

    patience = 120.0  # a process whose node was lost ends when it notices that

    def __init__(
        self,
        address: str | None = None,
        *,
        resources: Callable[[Any], Mapping[str, float]] = lambda _: {},
        title: Callable[[Any], str] = str,
        logs: Path | None = None,
        retries: int = 3,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._address, self._resources, self._title = address, resources, title
        self._logs, self._retries, self._say = logs, retries, say

    def run(
        self,
        tasks: Sequence[T],
        work: Callable[[T], R],
        *,
        needs: Callable[[T], Collection[T]] = nothing,
        begun: Callable[[T], Any] = nothing,
    ) -> Iterator[Outcome[T, R]]:
        """Yield the outcome of each task as it ends, in any order.

        Raises:
            RunError: nobody answers at the address, or a node has another version of this package.
        """
        if not tasks:
            return
        with ray_cluster(self._address, say=self._say) as ray:
            yield from self._run(ray, tasks, work, needs, begun)

    def _run(
        self,
        ray: Any,
        tasks: Sequence[T],
        work: Callable[[T], R],
        needs: Callable[[T], Collection[T]],
        begun: Callable[[T], Any],
    ) -> Iterator[Outcome[T, R]]:
        places = {id(task): i for i, task in enumerate(tasks)}
        open_needs = [{places[id(need)] for need in needs(task)} for task in tasks]
        waiting = list(range(len(tasks)))
        ended: set[int] = set()
        running: dict[Any, int] = {}
        shared = ray.put(work)  # sent to each node once
        board = ray.remote(num_cpus=0, resources={HEAD: 0.001})(_Board).remote()
        display = _Display(self, tasks, begun)
        self._warn_of_too_much(ray, tasks)
        try:
            with progress("tasks", len(tasks)) as bar:
                while waiting or running:
                    ready = [i for i in waiting if open_needs[i] <= ended]
                    for i in ready:
                        waiting.remove(i)
                        running[self._submit(ray, shared, tasks[i], i, board)] = i
                    done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_SECONDS)
                    self._drain(ray, board, display)
                    for ref in done:
                        i = running.pop(ref)
                        outcome: Outcome[T, R] = self._outcome(ray, tasks[i], ref)
                        display.ended(i)
                        ended.add(i)
                        yield outcome
                        bar.advance(1, running=float(len(display.running)))
        finally:
            for ref in running:  # interrupted: unfinished runs are resumed by the same command
                with suppress(Exception):
                    ray.cancel(ref, force=True)
            with suppress(Exception):
                ray.kill(board)

    def _submit(self, ray: Any, work: Any, task: Any, number: int, board: Any) -> Any:
        asked = self._resources(task)
        cpus = asked.get("cpus", 1.0)
        options: dict[str, Any] = {
            "num_cpus": cpus, "num_gpus": asked.get("gpus", 0.0), "max_retries": self._retries,
            "name": self._title(task),
        }  # fmt: skip
        if asked.get("memory"):
            options["memory"] = int(asked["memory"])
        own = {k: v for k, v in os.environ.items() if k.startswith(_OWN_VARIABLES)}
        log = self.log_of(task)
        context = _Context(
            __version__, str(Path.cwd()), own, max(1, int(cpus)), None if log is None else str(log)
        )
        return ray.remote(_work).options(**options).remote(work, task, number, context, board)

    def log_of(self, task: Any) -> Path | None:
        """Return the file of a task's output; None where Ray keeps it."""
        if self._logs is None:
            return None
        plain = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in self._title(task))
        return self._logs.resolve() / f"{plain}.txt"

    def _outcome(self, ray: Any, task: T, ref: Any) -> Outcome[T, R]:
        try:
            kind, value = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except ray.exceptions.RayError as error:
            log = self.log_of(task)
            lost = RunError(
                f"{self._title(task)}: its worker was lost {self._retries + 1} times "
                f"({type(error).__name__}){f'; see {log}' if log else ''}; repeat the command"
            )
            return Outcome(task, None, lost)
        return Outcome(task, value) if kind == "done" else Outcome(task, None, _to_error(value))

    def _drain(self, ray: Any, board: Any, display: _Display) -> None:
        with suppress(ray.exceptions.RayError):  # a display must not end the work
            for kind, number, text in ray.get(board.take.remote(), timeout=10):
                display.show(kind, number, text)

    def _warn_of_too_much(self, ray: Any, tasks: Sequence[Any]) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        names = {"cpus": "CPU", "gpus": "GPU", "memory": "memory"}
        for asked in {tuple(sorted(self._resources(task).items())) for task in tasks}:
            if not any(all(n.get(names[k], 0) >= v for k, v in asked) for n in nodes):
                text = ", ".join(f"{k} {v:g}" for k, v in asked)
                self._say(f"no node has {text}: such tasks wait until one joins the cluster")


class _Display:
    """What is displayed of all tasks."""

    def __init__(
        self, executor: RayExecutor, tasks: Sequence[Any], begun: Callable[[Any], Any]
    ) -> None:
        self._executor, self._tasks, self._begun = executor, tasks, begun
        self._known: set[int] = set()
        self.running: set[int] = set()

    def show(self, kind: str, number: int, text: str) -> None:
        """Display an event of the board."""
        task, say = self._tasks[number], self._executor._say
        title = self._executor._title(task)
        if kind == "line":
            say(f"{title}: {text}" if not text.startswith(title) else text)
            return
        self.running.add(number)
        if number in self._known:
            say(f"{title}: its worker was lost; continues on {text}")
            return
        self._known.add(number)
        self._begun(task)
        log = self._executor.log_of(task)
        say(f"{title}: on {text}{f', log {log}' if log else ''}")

    def ended(self, number: int) -> None:
        """Note that a task has ended."""
        if number not in self._known:  # ended before its beginning was read
            self._known.add(number)
            self._begun(self._tasks[number])
        self.running.discard(number)


class _Board:
    """Holds what tasks report, on the head node, until the command reads it."""

    def __init__(self) -> None:
        self._events: list[tuple[str, int, str]] = []

    def note(self, kind: str, number: int, text: str) -> None:
        """Add an event."""
        self._events.append((kind, number, text))

    def take(self) -> list[tuple[str, int, str]]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events


class _Log(TextIOBase):
    """Writes to the file of a task, and reports a line from time to time."""

    def __init__(self, file: TextIO, report: Callable[[str], Any]) -> None:
        self._file, self._report = file, report
        self._reported = time.monotonic()

    def write(self, text: str) -> int:
        self._file.write(text)
        line = text.strip()
        if line and time.monotonic() - self._reported >= _LINE_EVERY_SECONDS:
            self._reported = time.monotonic()
            self._report(line.splitlines()[-1])
        return len(text)

    def flush(self) -> None:
        self._file.flush()


def _work(
    work: Callable[[T], R], task: T, number: int, context: _Context, board: Any
) -> tuple[str, Any]:
    """Run a task on a worker; an error of the input is a value, so that Ray does not repeat it."""
    import ray

    where = f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"
    refused = check_same_version(context.version, where=where)
    if refused is not None:
        return "failed", _from_error(RunError(refused))
    if not Path(context.folder).is_dir():
        missing = f"node {where}: no folder {context.folder}; share it with all nodes"
        return "failed", _from_error(RunError(missing))
    os.chdir(context.folder)
    for name, value in context.variables.items():
        os.environ.setdefault(name, value)  # what the node has of its own counts
    share_terminal()
    _use_threads(context.threads)
    board.note.remote("begun", number, f"node {where}, process {os.getpid()}")
    try:
        if context.log is None:
            return "done", work(task)
        log = Path(context.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", buffering=1, errors="backslashreplace") as file:
            file.write(f"on node {where}, process {os.getpid()}\n")
            tee: Any = _Log(file, lambda line: board.note.remote("line", number, line))
            with redirect_stdout(tee), redirect_stderr(tee):
                try:
                    return "done", work(task)
                except Exception:
                    traceback.print_exc(file=file)
                    raise
    except ToolkitError as error:
        return "failed", _from_error(error)


def _use_threads(threads: int) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    import cv2

    cv2.setNumThreads(threads)
    if "torch" in sys.modules:  # by an earlier task of this process
        sys.modules["torch"].set_num_threads(threads)


def _from_error(error: ToolkitError) -> tuple[type[ToolkitError], str, int, str]:
    """Return an error as plain values, since one with arguments of its own cannot be pickled."""
    return type(error), str(error), error.exit_status, error.details


def _to_error(values: tuple[type[ToolkitError], str, int, str]) -> ToolkitError:
    kind, message, status, details = values
    error = ToolkitError.__new__(kind, message)  # not its own arguments, which are not known here
    error.exit_status, error.details = status, details
    return error

"""Executors of tasks, in this process or in several; they know nothing of what a task does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from toolkit.errors import RunError, ToolkitError
from toolkit.progress import share_terminal
from toolkit.runs.environment import usable_cores

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """The result of one task, or the error that ended it."""

    task: T
    result: R | None
    error: ToolkitError | None = None


def nothing(_: Any) -> tuple[()]:
    """Return nothing: no task that must have ended before, no message."""
    return ()


class Executor(Protocol):
    """Runs tasks.

    Attributes:
        patience: seconds that a task may wait for what another process holds; an executor that
            starts tasks again meets the process that was given up, until it has ended.
    """

    patience: float

    def run(
        self,
        tasks: Sequence[T],
        work: Callable[[T], R],
        *,
        needs: Callable[[T], Collection[T]] = nothing,
        begun: Callable[[T], Any] = nothing,
    ) -> Iterator[Outcome[T, R]]:
        """Yield the outcome of each task as it ends.

        Args:
            tasks: each after the tasks that it needs.
            work: runs one task.
            needs: returns the tasks that must have ended, well or badly, before a task begins.
            begun: called with each task that begins.
        """


class LocalExecutor:
    """Runs the tasks one after the other in this process.

    A `ToolkitError` of one task does not end the others: it is the outcome of that task.
    """

    patience = 0.0

    def run(
        self,
        tasks: Sequence[T],
        work: Callable[[T], R],
        *,
        needs: Callable[[T], Collection[T]] = nothing,
        begun: Callable[[T], Any] = nothing,
    ) -> Iterator[Outcome[T, R]]:
        """Yield the outcome of each task as it ends, in order, so what a task needs has ended."""
        for task in tasks:
            begun(task)
            try:
                yield Outcome(task, work(task))
            except ToolkitError as error:
                yield Outcome(task, None, error)


class ProcessExecutor:
    """Runs up to `jobs` tasks at once.

    Two trainings of small networks side by side are faster than one after the other on two threads.
    Tasks and work are pickled.

    Args:
        jobs: number of processes.
        threads: of each process; 0 divides the cores among them.
    """

    patience = 0.0

    def __init__(self, jobs: int, *, threads: int = 0) -> None:
        if jobs < 1:
            raise ValueError(f"jobs {jobs}: at least one")
        self.jobs = jobs
        self.threads = threads or max(1, usable_cores() // jobs)

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
            RunError: a process was killed, as when memory runs out. Finished runs remain.
        """
        places = {id(task): i for i, task in enumerate(tasks)}
        open_needs = [{places[id(need)] for need in needs(task)} for task in tasks]
        waiting = list(range(len(tasks)))
        ended: set[int] = set()
        running: dict[Future[R], int] = {}
        others = multiprocessing.active_children()
        # Spawned, since a fork would inherit the locks of torch's threads.
        pool = ProcessPoolExecutor(
            self.jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(self.threads,),
        )
        try:
            while waiting or running:
                ready = [i for i in waiting if open_needs[i] <= ended]
                for i in ready[: self.jobs - len(running)]:
                    waiting.remove(i)
                    begun(tasks[i])
                    running[pool.submit(work, tasks[i])] = i
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    outcome = _outcome(tasks[running[future]], future)
                    ended.add(running.pop(future))
                    yield outcome
        except BrokenProcessPool as error:
            raise RunError(
                "a process was killed, perhaps for lack of memory; repeat the command with fewer "
                "--jobs"
            ) from error
        finally:
            pool.shutdown(wait=not running, cancel_futures=True)
            if running:  # interrupted: unfinished runs are resumed when the command is repeated
                for child in set(multiprocessing.active_children()).difference(others):
                    child.terminate()


def _outcome(task: T, future: Future[R]) -> Outcome[T, R]:
    try:
        return Outcome(task, future.result())
    except ToolkitError as error:
        return Outcome(task, None, error)


def _begin(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # only the first process reports Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share_terminal()
    # Before torch is imported; Ultralytics reads it too.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    import cv2

    cv2.setNumThreads(threads)


def _end_with_parent() -> None:
    """Exit when the first process has ended, in whatever way."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""Running tasks side by side, each in a process of its own with its share of the cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from toolkit.benchmark.executor import Outcome, nothing
from toolkit.errors import RunError, ToolkitError
from toolkit.progress import share_terminal
from toolkit.runs.environment import usable_cores

T = TypeVar("T")
R = TypeVar("R")


class ProcessExecutor:
    """Runs up to `jobs` tasks at once.

    Small networks do not gain twice from two threads, but two of them side by side do. Tasks and
    work are sent to the processes, so both can be pickled.

    Args:
        jobs: number of processes.
        threads: of each process; 0 divides the cores among them.
    """

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
        """Yield the outcome of each task as it ends; which ends first is not foreseen.

        Raises:
            RunError: a process ended without a word, as when memory runs out. What is finished
                stays.
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
                "a process was ended from outside, perhaps for want of memory; repeat the command, "
                "with fewer --jobs"
            ) from error
        finally:
            pool.shutdown(wait=not running, cancel_futures=True)
            if running:  # interrupted: what is half done goes on when the command is repeated
                for child in set(multiprocessing.active_children()).difference(others):
                    child.terminate()


def _outcome(task: T, future: Future[R]) -> Outcome[T, R]:
    try:
        return Outcome(task, future.result())
    except ToolkitError as error:
        return Outcome(task, None, error)


def _begin(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is told by the first process alone
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share_terminal()
    # Before torch is imported; Ultralytics reads it too.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    import cv2

    cv2.setNumThreads(threads)


def _end_with_parent() -> None:
    """Wait until the first process is gone, however it went; nobody else would end this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

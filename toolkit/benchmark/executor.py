"""Running tasks. An executor knows nothing of what a task does, so another can take its place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from toolkit.errors import ToolkitError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """What became of one task: a result, or the error that ended it."""

    task: T
    result: R | None
    error: ToolkitError | None = None


def nothing(_: Any) -> tuple[()]:
    """Need no other task; also: say nothing."""
    return ()


class Executor(Protocol):
    """Carries out tasks."""

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
            tasks: what each of them needs stands before it.
            work: carries out one task.
            needs: gives the tasks that must have ended, well or badly, before a task begins.
            begun: is told of a task that begins.
        """


class LocalExecutor:
    """Runs the tasks one after the other in this process.

    One task's wrong input does not end the others: the error is its outcome.
    """

    def run(
        self,
        tasks: Sequence[T],
        work: Callable[[T], R],
        *,
        needs: Callable[[T], Collection[T]] = nothing,
        begun: Callable[[T], Any] = nothing,
    ) -> Iterator[Outcome[T, R]]:
        """Yield the outcome of each task as it ends, in order; so what a task needs has ended."""
        for task in tasks:
            begun(task)
            try:
                yield Outcome(task, work(task))
            except ToolkitError as error:
                yield Outcome(task, None, error)

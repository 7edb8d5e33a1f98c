"""Running tasks. An executor knows nothing of what a task does, so another can take its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from toolkit.errors import ToolkitError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """What became of one task: a result, or the error that ended it."""

    task: T
    result: R | None
    error: ToolkitError | None = None


class Executor(Protocol):
    """Carries out tasks in an order that respects the list's."""

    def run(self, tasks: Iterable[T], work: Callable[[T], R]) -> Iterator[Outcome[T, R]]:
        """Yield the outcome of each task as it ends."""


class LocalExecutor:
    """Runs the tasks one after the other in this process.

    One task's wrong input does not end the others: the error is its outcome.
    """

    def run(self, tasks: Iterable[T], work: Callable[[T], R]) -> Iterator[Outcome[T, R]]:
        """Yield the outcome of each task as it ends."""
        for task in tasks:
            try:
                yield Outcome(task, work(task))
            except ToolkitError as error:
                yield Outcome(task, None, error)

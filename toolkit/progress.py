"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from toolkit.errors import printable

T = TypeVar("T")

_LINE_EVERY_SECONDS = 10.0

_shared = False  # whether other processes write to the same terminal
_prefix = ""  # name of this process's work


def share_terminal() -> None:
    """Write plain lines from now on, because other processes write to the same terminal."""
    global _shared
    _shared = True


@contextmanager
def naming(work: str) -> Iterator[None]:
    """Prefix the lines of this process with the name of its work, where a terminal is shared."""
    global _prefix
    before, _prefix = _prefix, work
    try:
        yield
    finally:
        _prefix = before


class Progress:
    """One piece of work with a known amount."""

    def advance(self, amount: float = 1, /, **figures: float | str) -> None:
        """Add to the amount that is done, and display figures (loss, IoU, …) beside it.

        Args:
            amount: in the units of `total`. Where steps differ in cost, pass their cost, so that
                the time left is right.
            figures: by name; those of the latest call are displayed.
        """

    def skip(self, amount: float, /) -> None:
        """Count an amount as done that took no time, such as the epochs of a resumed training."""


class _Silent(Progress):
    pass


class _Lines(Progress):
    def __init__(self, title: str, total: float | None) -> None:
        self._title = f"{_prefix}: {title}" if _shared and _prefix else title
        self._total = total
        self._done = self._skipped = 0.0
        self._started = self._printed = time.monotonic()

    def skip(self, amount: float, /) -> None:
        self._done += amount
        self._skipped += amount

    def advance(self, amount: float = 1, /, **figures: float | str) -> None:
        self._done += amount
        now = time.monotonic()
        finished = _is_finished(self._done, self._total)
        if now - self._printed < _LINE_EVERY_SECONDS and not finished:
            return
        self._printed = now
        words = [f"{self._title}: {_position(self._done, self._total)}"]
        if finished:
            words.append(f"{now - self._started:.0f} s")
        elif self._total:
            worked = max(self._done - self._skipped, 1e-9)
            left = (now - self._started) / worked * (self._total - self._done)
            words.append(f"{left:.0f} s left")
        words += _texts(figures)
        print("  ".join(words), file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, total: float | None = None, *, show: bool = True) -> Iterator[Progress]:
    """Display the progress of one piece of work on standard error.

    The time left assumes that equal amounts take equal time. Where steps differ in cost, give
    `total` and the amounts in units of cost; a float as `total` is displayed as a percentage.

    Example:
        >>> costs = [1.0, 1.0, 4.0]  # the last step runs at twice the resolution
        >>> with progress("train", sum(costs), show=False) as bar:
        ...     for cost in costs:
        ...         bar.advance(cost, loss=0.1)

    Args:
        title: what is being done.
        total: the whole amount: a number of steps (int) or a sum of costs (float); None if unknown.
        show: False displays nothing.
    """
    if not show:
        yield _Silent()
    elif sys.stderr.isatty() and not _shared:
        with _bar(printable(title), total) as bar:
            yield bar
    else:
        yield _Lines(printable(title), total)


def track(
    items: Iterable[T], title: str, total: int | None = None, *, show: bool = True
) -> Iterator[T]:
    """Yield the items and display how many are done."""
    count = total
    if count is None and isinstance(items, Sized):
        count = len(items)
    with progress(title, count, show=show) as bar:
        for item in items:
            yield item
            bar.advance()


@contextmanager
def _bar(title: str, total: float | None) -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.fields[position]}", markup=False),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("{task.fields[left]}", markup=False),
        rich_progress.TextColumn("{task.fields[figures]}", markup=False),
        console=Console(stderr=True),
    )
    with columns:
        task = columns.add_task(
            title, total=total, position=_position(0, total), left="", figures=""
        )

        class _Rich(Progress):
            done = skipped = 0.0

            def skip(self, amount: float, /) -> None:
                self.skipped += amount
                self._update(amount, {})

            def advance(self, amount: float = 1, /, **figures: float | str) -> None:
                self._update(amount, figures)

            def _update(self, amount: float, figures: dict[str, float | str]) -> None:
                self.done += amount
                fields: dict[str, Any] = {
                    "position": _position(self.done, total),
                    "left": self._left(),
                }
                if figures:
                    fields["figures"] = "  ".join(_texts(figures))
                columns.update(task, completed=self.done, **fields)

            def _left(self) -> str:
                worked, elapsed = self.done - self.skipped, columns.tasks[0].elapsed
                if not total or not elapsed or worked <= 0 or _is_finished(self.done, total):
                    return ""
                # Not the estimate of rich, which sees the last seconds alone.
                seconds = elapsed / worked * (total - self.done)
                return f"{datetime.timedelta(seconds=round(seconds))} left"

        yield _Rich()


def _is_finished(done: float, total: float | None) -> bool:
    return total is not None and done >= total - 1e-6 * max(total, 1)  # sums of floats are inexact


def _position(done: float, total: float | None) -> str:
    """Return `3/8` for steps, `38 %` for costs, `3` where the total is unknown."""
    if not total:
        return f"{done:g}"
    if isinstance(total, int):
        return f"{round(done)}/{total}"
    return f"{100 * done / total:.0f} %"


def _texts(figures: dict[str, float | str]) -> list[str]:
    return [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()]

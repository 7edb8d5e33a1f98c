"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_LINE_EVERY_SECONDS = 10.0

_shared = False  # whether other processes write to the same terminal
_work = ""  # what this process is at


def share_terminal() -> None:
    """Write plain lines from now on, because other processes write to the same terminal."""
    global _shared
    _shared = True


@contextmanager
def naming(work: str) -> Iterator[None]:
    """Put the name of this process's work before its lines, where processes share a terminal."""
    global _work
    before, _work = _work, work
    try:
        yield
    finally:
        _work = before


class Progress:
    """One piece of work with a known number of steps."""

    def advance(self, steps: float = 1, **figures: float | str) -> None:
        """Go on by `steps` and show the given figures (loss, IoU, …) beside the bar."""


class _Silent(Progress):
    pass


class _Lines(Progress):
    def __init__(self, title: str, total: float | None) -> None:
        self._title = f"{_work}: {title}" if _shared and _work else title
        self._total = total
        self._done = 0.0
        self._started = self._told = time.monotonic()

    def advance(self, steps: float = 1, **figures: float | str) -> None:
        self._done += steps
        now = time.monotonic()
        # Parts of steps do not add up exactly.
        last = self._total is not None and self._done >= self._total - 1e-6
        if now - self._told < _LINE_EVERY_SECONDS and not last:
            return
        self._told = now
        words = [f"{self._title}: {self._done:g}"]
        if self._total:
            words[0] += f"/{self._total:g}"
            left = (now - self._started) / max(self._done, 1e-9) * (self._total - self._done)
            words.append(f"{left:.0f} s left" if not last else f"{now - self._started:.0f} s")
        words += _texts(figures)
        print("  ".join(words), file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, total: float | None = None, *, show: bool = True) -> Iterator[Progress]:
    """Show the progress of one piece of work on standard error.

    Args:
        title: what is being done.
        total: number of steps; None if unknown.
        show: False keeps silent.
    """
    if not show:
        yield _Silent()
    elif sys.stderr.isatty() and not _shared:
        with _bar(title, total) as bar:
            yield bar
    else:
        yield _Lines(title, total)


def track(
    items: Iterable[T], title: str, total: int | None = None, *, show: bool = True
) -> Iterator[T]:
    """Yield the items while showing progress."""
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
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[figures]}", markup=False),
        console=Console(stderr=True),
    )
    with columns:
        task = columns.add_task(title, total=total, figures="")

        class _Rich(Progress):
            def advance(self, steps: float = 1, **figures: float | str) -> None:
                text = "  ".join(_texts(figures))
                columns.update(task, advance=steps)
                if text:
                    columns.update(task, figures=text)

        yield _Rich()


def _texts(figures: dict[str, float | str]) -> list[str]:
    return [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()]

"""Work on many items in threads, with results in order and memory that does not grow."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Stop:
    """Whether a signal has asked to stop.

    Attributes:
        signal: number of the signal; 0 before.
    """

    signal = 0


def in_order(
    work: Callable[[T], R], items: Iterable[T], *, workers: int, stop: Stop | None = None
) -> Iterator[R]:
    """Yield `work(item)` of each item, in order; several are worked on at once.

    At most three times `workers` items are begun and not yet yielded. Items are drawn in a thread
    of their own, so that a slow source (a camera, a pipe) holds back nobody.

    Example:
        >>> list(in_order(abs, [-1, 2], workers=2))
        [1, 2]

    Args:
        work: called in several threads.
        items: drawn one by one.
        workers: number of threads.
        stop: once it is set, nothing new is begun, and what was begun is yielded.

    Raises:
        Exception: what `work` or the source raised, after the results before it.
    """
    room = threading.Semaphore(3 * workers)
    ready = threading.Condition()
    pending: deque[Future[R]] = deque()
    ended: list[BaseException | None] = []

    def draw(pool: ThreadPoolExecutor) -> None:
        failure: BaseException | None = None
        try:
            source = iter(items)
            while True:
                room.acquire()
                item = _END if is_over() else next(source, _END)
                if item is _END or is_over():
                    break
                with ready:
                    pending.append(pool.submit(work, item))
                    ready.notify()
        except BaseException as error:
            failure = error
        with ready:
            ended.append(failure)
            ready.notify()

    def is_over() -> bool:
        return closed.is_set() or (stop is not None and stop.signal != 0)

    closed = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        drawer = threading.Thread(target=draw, args=(pool,), daemon=True)
        drawer.start()
        try:
            while True:
                with ready:
                    while not (pending or ended or is_over()):
                        ready.wait(0.2)  # a signal wakes nobody
                    if not pending:
                        break
                    future = pending.popleft()
                yield future.result()
                room.release()
        finally:
            closed.set()
            room.release()
            with ready:
                for future in pending:
                    future.cancel()
            if not ended:
                drawer.join(timeout=1.0)  # a source that waits for more holds nobody up
    if ended and ended[0] is not None:
        raise ended[0]


_END: Any = object()


@contextmanager
def stopping() -> Iterator[Stop]:
    """Let SIGINT and SIGTERM set a flag; a second one interrupts at once."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.signal:
            raise KeyboardInterrupt
        stop.signal = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

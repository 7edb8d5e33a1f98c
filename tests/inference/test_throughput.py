"""Work in threads: in order, bounded, and it stops when it is told to."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from toolkit.inference.throughput import Stop, in_order


def test_results_are_in_order_and_work_overlaps() -> None:
    barrier = threading.Barrier(3)

    def work(number: int) -> int:
        if number < 3:
            barrier.wait(timeout=10)  # three at once, or it fails
        time.sleep(0.01 * (number % 3))
        return number

    assert list(in_order(work, range(20), workers=3)) == list(range(20))


@pytest.mark.parametrize("workers", [1, 4])
def test_little_is_begun_ahead(workers: int) -> None:
    drawn = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    results = in_order(lambda n: n, numbers(), workers=workers)
    assert next(results) == 0
    time.sleep(0.1)
    assert len(drawn) <= 3 * workers + 1
    results.close()  # type: ignore[attr-defined]
    assert len(drawn) <= 3 * workers + 2


@pytest.mark.parametrize("place", ["work", "source"])
def test_an_error_comes_after_the_results_before_it(place: str) -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)
        if place == "source":
            raise ValueError("broken")
        yield from range(5, 100)

    def work(number: int) -> int:
        if number == 5:
            raise ValueError("broken")
        return number

    found = []
    with pytest.raises(ValueError, match="broken"):
        found.extend(iter_into(found, in_order(work, numbers(), workers=2)))
    assert found == [0, 1, 2, 3, 4]


def iter_into(found: list[int], results: Iterator[int]) -> Iterator[int]:
    for one in results:
        found.append(one)
    return iter(())


def test_a_slow_source_holds_back_no_result() -> None:
    release = threading.Event()

    def numbers() -> Iterator[int]:
        yield 1
        release.wait(10)
        yield 2

    results = in_order(lambda n: n, numbers(), workers=2)
    assert next(results) == 1  # while the source waits
    release.set()
    assert list(results) == [2]


def test_a_stop_yields_what_was_begun() -> None:
    stop = Stop()
    found = []
    for number in in_order(lambda n: n, itertools.count(), workers=2, stop=stop):
        found.append(number)
        if number == 10:
            stop.signal = signal.SIGTERM
    assert found == list(range(len(found)))
    assert 11 <= len(found) <= 11 + 6


SIGNALLED_TWICE = """
import signal
from toolkit.inference.throughput import stopping

before = signal.getsignal(signal.SIGTERM)
with stopping() as stop:
    signal.raise_signal(signal.SIGTERM)
    print("first", stop.signal == signal.SIGTERM)
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        print("second interrupts")
print("restored", signal.getsignal(signal.SIGTERM) is before)
"""


def test_signals_set_the_flag_and_the_second_interrupts() -> None:
    # In a process of its own: a signal that another thread of the test runner takes is handled
    # late, when the old handler is back, and ends the runner.
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED_TWICE], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines() == ["first True", "second interrupts", "restored True"], (
        done.stderr
    )

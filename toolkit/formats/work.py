"""The loop over images, in this process or in several."""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.data.types import GOOD, Sample
from toolkit.formats.extract import extract
from toolkit.formats.report import Problem
from toolkit.formats.selection import Entry

if TYPE_CHECKING:
    from toolkit.formats.job import Writer

LEAST_PER_WORKER = 250
_CHUNK = 64
_CHUNKS_PER_WORKER = 4
_ELSEWHERE = Entry(Sample("", Path(), GOOD), "", "")


@dataclass(slots=True)
class Done:
    """What is known of an image after it was written; small, so it travels between processes.

    Attributes:
        entry: the image.
        regions: number of regions written, per class index.
        found: components in its masks.
        merged: components joined to another.
        dropped: what was left out, per reason.
        problem: why it was skipped, if it was.
        written: whether it is in the output.
        payload: what the target wants to keep of it.
    """

    entry: Entry
    regions: Counter[int] = field(default_factory=Counter)
    found: int = 0
    merged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problem: Problem | None = None
    written: bool = False
    payload: Any = None


def work_through(entries: Sequence[Entry], writer: Writer, *, workers: int) -> Iterator[Done]:
    """Extract and write every image; yield what was done, in the order of the entries.

    A few hundred images are done sooner than a second process has started: they get one.
    """
    workers = min(workers, len(entries) // LEAST_PER_WORKER)
    if workers <= 1:
        for entry in entries:
            yield _one(writer, entry)
        return
    chunk = max(1, min(_CHUNK, len(entries) // (workers * 2) or 1))
    with ProcessPoolExecutor(
        workers, mp_context=_context(), initializer=_begin, initargs=(writer, entries)
    ) as pool:
        waiting: deque[Future[list[tuple[int, Done]]]] = deque()
        chunks = iter([slice(i, i + chunk) for i in range(0, len(entries), chunk)])
        try:
            for part in islice(chunks, workers * _CHUNKS_PER_WORKER):
                waiting.append(pool.submit(_many, part))
            while waiting:
                finished = waiting.popleft().result()
                for part in islice(chunks, 1):
                    waiting.append(pool.submit(_many, part))
                for index, done in finished:
                    done.entry = entries[index]
                    yield done
        finally:
            for future in waiting:
                future.cancel()


def _one(writer: Writer, entry: Entry) -> Done:
    job = writer.job
    item = extract(entry, classes=job.class_map, options=job.options, with_masks=writer.needs_masks)
    done = Done(entry, found=item.found, merged=item.merged, problem=item.problem)
    if item.problem is None and not item.left_out:
        done.payload = writer.encode(item)
        done.regions = Counter(one.class_index for one in item.labelled)
        done.written = True
    done.dropped = item.dropped
    return done


_state: tuple[Writer, Sequence[Entry]] | None = None  # of this worker process


def _begin(writer: Writer, entries: Sequence[Entry]) -> None:
    global _state
    import cv2

    cv2.setNumThreads(1)  # the cores are taken
    _state = writer, entries


def _many(part: slice) -> list[tuple[int, Done]]:
    if _state is None:
        raise RuntimeError("worker was not initialised")
    writer, entries = _state
    results = []
    for index in range(*part.indices(len(entries))):
        done = _one(writer, entries[index])
        done.entry = _ELSEWHERE  # the first process knows it; paths are slow to send
        results.append((index, done))
    return results


def _context() -> multiprocessing.context.BaseContext:
    # Forking is quick, but a child waits for ever on threads that torch or OpenCV left behind in
    # the parent. On the command line neither is loaded yet.
    forks = sys.platform == "linux" and not {"torch", "cv2"} & sys.modules.keys()
    return multiprocessing.get_context("fork" if forks else "spawn")

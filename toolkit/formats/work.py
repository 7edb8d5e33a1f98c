"""The loop over images, in this process or in several."""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from toolkit.formats.extract import extract
from toolkit.formats.report import Problem

if TYPE_CHECKING:
    from toolkit.formats.job import Writer
    from toolkit.formats.selection import Entry

_CHUNK = 64
_CHUNKS_PER_WORKER = 4


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
    """Extract and write every image; yield what was done, in the order of the entries."""
    if workers <= 1:
        for entry in entries:
            yield _one(writer, entry)
        return
    chunk = max(1, min(_CHUNK, len(entries) // (workers * 2) or 1))
    with ProcessPoolExecutor(
        workers, mp_context=_context(), initializer=_begin, initargs=(writer,)
    ) as pool:
        waiting: deque[Future[list[Done]]] = deque()
        chunks = _chunks(entries, chunk)
        try:
            for part in islice(chunks, workers * _CHUNKS_PER_WORKER):
                waiting.append(pool.submit(_many, part))
            while waiting:
                done = waiting.popleft().result()
                for part in islice(chunks, 1):
                    waiting.append(pool.submit(_many, part))
                yield from done
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


_writer: Writer | None = None  # of this worker process


def _begin(writer: Writer) -> None:
    global _writer
    import cv2

    cv2.setNumThreads(1)  # OpenCV's pool does not survive a fork, and the cores are taken
    _writer = writer


def _many(entries: Iterable[Entry]) -> list[Done]:
    if _writer is None:
        raise RuntimeError("worker was not initialised")
    return [_one(_writer, entry) for entry in entries]


def _context() -> multiprocessing.context.BaseContext:
    # Forking is quick and shares what is loaded, but not safe beside torch's threads.
    forks = sys.platform == "linux" and "torch" not in sys.modules
    return multiprocessing.get_context("fork" if forks else "spawn")


def _chunks(entries: Sequence[Entry], size: int) -> Iterator[Sequence[Entry]]:
    return (entries[i : i + size] for i in range(0, len(entries), size))

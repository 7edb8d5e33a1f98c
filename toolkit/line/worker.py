"""Threads that decode images and ask the model; others wait for answers.

Encoded images wait in a bounded queue, and only a few of them are decoded at a time, so that large
images cannot fill the memory. A future never fails: an error, or an answer that comes too late, is
an `Answer` of NOK with a reason.

Two threads ask the model, so that one image is prepared while the network computes another. A model
that may not be called by both at once answers them in turn.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from toolkit.data.decoding import MAX_PIXELS, parse_header
from toolkit.data.images import decode_rgb
from toolkit.errors import ConfigError, ToolkitError
from toolkit.line.answers import Answer, NamedModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OnShadow: TypeAlias = Callable[[Answer, Answer], None]
_TICK = 0.2
_LANES = 2


class BusyError(ToolkitError):
    """The queue is full, or the worker has been closed."""


@dataclass(eq=False)
class _Job:
    data: bytes | NDArray[np.uint8]
    name: str
    arrived: float
    deadline: float
    future: Future[Answer] = field(default_factory=Future)
    array: NDArray[np.uint8] | None = None

    def age_ms(self) -> float:
        return (time.monotonic() - self.arrived) * 1000

    def resolve(self, answer: Answer) -> None:
        with suppress(InvalidStateError):  # whoever asked has stopped waiting
            self.future.set_result(answer)


class Worker:
    """Answers images in the order in which they come, or in batches where these are faster.

    Where two threads may call the model at the same time, answers can come in another order.

    Example:
        >>> worker = Worker(NamedModel.of(model))  # doctest: +SKIP
        >>> worker.submit(Path("part.png").read_bytes(), "part.png").result()  # doctest: +SKIP
        Answer(decision=<Outcome.OK: 'OK'>, score=2.1, …)

    Args:
        model: the model that answers.
        max_waiting: images that may wait.
        max_pixels: larger images are not decoded.
        timeout: seconds after which an image that waits is NOK.
        threads: threads of torch; None leaves them as they are.
        on_shadow: called with the answers of the live and the shadow model where these differ.

    Attributes:
        live: the model that answers.
        shadow: a model that answers too, without effect; None without one.
    """

    def __init__(
        self,
        model: NamedModel,
        *,
        max_waiting: int = 32,
        max_pixels: int = MAX_PIXELS,
        timeout: float = 10.0,
        threads: int | None = None,
        on_shadow: OnShadow | None = None,
    ) -> None:
        if max_waiting < 1 or max_pixels < 1 or not timeout > 0:
            raise ConfigError("max_waiting, max_pixels and timeout: must be above 0")
        self.live = model
        self.shadow: NamedModel | None = None
        self.timeout = timeout
        self._max_pixels, self._threads, self._on_shadow = max_pixels, threads, on_shadow
        self._waiting: queue.Queue[_Job] = queue.Queue(max_waiting)
        self._decoded: queue.Queue[_Job] = queue.Queue(max(2, 2 * model.model.batch_size))
        self._closed = threading.Event()
        self._turn = threading.Lock()
        self._busy_since: list[float | None] = [None] * _LANES
        self._decoder = threading.Thread(target=self._decode, name="decoder", daemon=True)
        self._lanes = [
            threading.Thread(target=self._predict, args=[lane], name=f"model-{lane}", daemon=True)
            for lane in range(_LANES)
        ]
        for thread in (self._decoder, *self._lanes):
            thread.start()

    @property
    def waiting(self) -> int:
        """Number of images that wait."""
        return self._waiting.qsize() + self._decoded.qsize()

    @property
    def alive(self) -> bool:
        """Whether answers are still to be expected: the threads run and no prediction hangs."""
        now = time.monotonic()
        stuck = any(s is not None and now - s > self.timeout for s in list(self._busy_since))
        return not stuck and all(t.is_alive() for t in (self._decoder, *self._lanes))

    def submit(
        self, data: bytes | NDArray[np.uint8], name: str, *, wait: bool = False
    ) -> Future[Answer]:
        """Queue an image; the future gives its answer and never an exception.

        Args:
            data: bytes of an image file, or an RGB array, uint8 (H, W, 3).
            name: by which errors call it.
            wait: wait for room in the queue instead of refusing.

        Raises:
            BusyError: the queue is full, or the worker closed.
        """
        now = time.monotonic()
        job = _Job(data, name, now, now + self.timeout)
        while not self._closed.is_set():
            try:
                self._waiting.put(job, timeout=_TICK if wait else 0.0001)
            except queue.Full:
                if not wait:
                    raise BusyError("too many images are waiting; try again later") from None
                job.arrived = time.monotonic()
                job.deadline = job.arrived + self.timeout
                continue
            if self._closed.is_set():  # no thread may be left that would answer it
                job.resolve(self._failed(job, "stopped"))
            return job.future
        raise BusyError("stopped; start the service again")

    def late(self) -> Answer:
        """Return the answer to an image that has not been answered in time."""
        reason = f"no answer within {self.timeout:g} s"
        return Answer.failed(reason, model=self.live.name, latency_ms=self.timeout * 1000)

    def swap(self, model: NamedModel) -> None:
        """Let another model answer from the next batch on."""
        self.live = model

    def close(self) -> None:
        """Answer what waits, as far as the time-out allows, and stop the threads."""
        self._closed.set()
        for thread in (self._decoder, *self._lanes):
            thread.join(self.timeout)
        for waiting in (self._waiting, self._decoded):
            while True:
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    break
                job.resolve(self._failed(job, "stopped"))

    def _decode(self) -> None:
        while True:
            try:
                job = self._waiting.get(timeout=_TICK)
            except queue.Empty:
                if self._closed.is_set():
                    return
                continue
            try:
                job.array = self._array(job)
            except Exception as error:  # whatever a decoder stumbles over is NOK
                reason = str(error) if isinstance(error, ToolkitError) else type(error).__name__
                job.resolve(self._failed(job, f"unreadable: {reason}"))
                continue
            job.data = b""
            while any(lane.is_alive() for lane in self._lanes):
                try:
                    self._decoded.put(job, timeout=_TICK)
                    break
                except queue.Full:
                    continue

    def _array(self, job: _Job) -> NDArray[np.uint8]:
        if not isinstance(job.data, bytes):
            return job.data
        name = Path(job.name)
        header = parse_header(name, job.data)
        if header.width * header.height > self._max_pixels:
            raise ConfigError(
                f"{header.width}x{header.height} pixels are more than the limit of "
                f"{self._max_pixels}"
            )
        return decode_rgb(name, job.data)

    def _predict(self, lane: int) -> None:
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._threads)  # counts for this thread alone
        while True:
            try:
                jobs = [self._decoded.get(timeout=_TICK)]
            except queue.Empty:
                if self._closed.is_set() and not self._decoder.is_alive():
                    return
                continue
            live, shadow = self.live, self.shadow
            with self._turn_of(live, shadow):
                jobs += self._more(live.model.batch_size - 1)
                self._busy_since[lane] = time.monotonic()
                self._answer(live, shadow, jobs)
                self._busy_since[lane] = None
            del jobs  # the arrays are not held while waiting

    def _turn_of(self, *models: NamedModel | None) -> AbstractContextManager[Any]:
        alone = any(one is not None and not one.model.parallel for one in models)
        return self._turn if alone else nullcontext()

    def _more(self, count: int) -> list[_Job]:
        jobs: list[_Job] = []
        with suppress(queue.Empty):
            while len(jobs) < count:
                jobs.append(self._decoded.get_nowait())
        return jobs

    def _answer(self, live: NamedModel, shadow: NamedModel | None, jobs: list[_Job]) -> None:
        for job in jobs:
            if job.deadline < time.monotonic():
                job.resolve(self.late())
        jobs = [job for job in jobs if not job.future.done()]
        if not jobs:
            return
        answers = self._answers(live, jobs)
        for job, answer in zip(jobs, answers, strict=True):
            job.resolve(answer)
        if shadow is not None and self._on_shadow is not None:
            for one, other in zip(answers, self._answers(shadow, jobs), strict=True):
                if one.decision != other.decision:
                    self._on_shadow(one, other)

    def _answers(self, named: NamedModel, jobs: list[_Job]) -> list[Answer]:
        try:
            results = named.model([job.array for job in jobs])
            return [
                Answer.of(result, model=named.name, latency_ms=job.age_ms())
                for job, result in zip(jobs, results, strict=True)
            ]
        except Exception as error:
            if len(jobs) > 1:  # the others of the batch may be fine
                return [self._answers(named, [job])[0] for job in jobs]
            reason = str(error) if isinstance(error, ToolkitError) else type(error).__name__
            return [self._failed(jobs[0], f"not predicted: {reason}")]

    def _failed(self, job: _Job, reason: str) -> Answer:
        return Answer.failed(reason, model=self.live.name, latency_ms=job.age_ms())

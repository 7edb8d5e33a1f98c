"""Everything of one line: the worker, the ledger, sinks, outputs, drift, images worth a label."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.data.decoding import MAX_PIXELS
from toolkit.decisions.drift import DriftMonitor
from toolkit.decisions.outcomes import Outcome
from toolkit.errors import ToolkitError
from toolkit.line.answers import Answer, NamedModel
from toolkit.line.collected import Collected
from toolkit.line.delivery import Delivery
from toolkit.line.ledger import MOVED, Ledger, LedgerError
from toolkit.line.plc import SCHEMES, make_output
from toolkit.line.sinks import make_sink
from toolkit.line.worker import Worker

if TYPE_CHECKING:
    from toolkit.inference.result import Result

_KEPT = 24
_SIDE = 240
_KEPT_BYTES = 8 << 20
_PLOTTED = 400
_GRACE = 0.5


@dataclass(frozen=True)
class Recent:
    """One of the last images.

    Attributes:
        event: its event.
        small: its result with an image of `_SIDE` pixels at most; None where there is none.
        data: its bytes; empty where it is large.
    """

    event: dict[str, Any]
    small: Result | None = field(repr=False)
    data: bytes = field(repr=False)

    def thumbnail(self) -> bytes:
        """Return a small plot as JPEG; empty where there is no result."""
        return b"" if self.small is None else jpeg(self.small.plot(), quality=80)


@dataclass(frozen=True)
class StationOptions:
    """Options of a line.

    Attributes:
        sinks: addresses of sinks and outputs.
        max_waiting: images that may wait for the model.
        max_pixels: larger images are NOK without being decoded.
        timeout: seconds after which an image is NOK.
        threads: threads of torch; None leaves them as they are.
        heartbeat: seconds between two heartbeats of an output.
    """

    sinks: Sequence[str] = ()
    max_waiting: int = 32
    max_pixels: int = MAX_PIXELS
    timeout: float = 10.0
    threads: int | None = None
    heartbeat: float = 1.0


class Station:
    """One line.

    Example:
        >>> station = Station(NamedModel.of(model), Path("line/bottle"))  # doctest: +SKIP
        >>> answer = station.answer(data, "part.png")  # doctest: +SKIP
        >>> station.record(answer, image="part.png", data=data, sha256="…")  # doctest: +SKIP

    Args:
        model: what answers.
        state: folder of the ledger, of images worth a label, of feedback and of new models.
        options: see `StationOptions`.
        say: gets one line about whatever a person should know.
    """

    def __init__(
        self,
        model: NamedModel,
        state: Path,
        options: StationOptions | None = None,
        *,
        say: Callable[[str], None] = print,
    ) -> None:
        options = options or StationOptions()
        self.state, self.say, self.options = state, say, options
        direct = [text for text in options.sinks if text.startswith(SCHEMES)]
        sinks = [make_sink(text) for text in options.sinks if not text.startswith(SCHEMES)]
        self.ledger = Ledger(state / "ledger.sqlite")
        self.worker = Worker(
            model,
            max_waiting=options.max_waiting,
            max_pixels=options.max_pixels,
            timeout=options.timeout,
            threads=options.threads,
            on_shadow=self._differ,
        )
        self.collected = Collected(state / "to-label")
        self.delivery = Delivery(self.ledger, sinks, say=say)
        self._problem = ""
        self.outputs = [
            make_output(text, alive=lambda: self.alive, say=say, interval=options.heartbeat)
            for text in direct
        ]
        self.recent: deque[Recent] = deque(maxlen=_KEPT)
        self._times: deque[tuple[float, float, Outcome]] = deque(maxlen=1000)
        self._lock = threading.Lock()
        self.drift: DriftMonitor | None = None
        self._evidence: list[tuple[int, float]] = []
        self._every = 1
        self.started = time.time()
        self._start_drift(model)

    @property
    def alive(self) -> bool:
        """Whether answers are given and written to the ledger."""
        return self.worker.alive and not self._problem

    @property
    def problem(self) -> str:
        """Why the ledger cannot be written; empty while it can."""
        return self._problem

    def answer(self, data: bytes, name: str) -> Answer:
        """Return the answer to an image; one that comes too late is NOK.

        Raises:
            BusyError: too many images wait.
        """
        return self.wait(self.worker.submit(data, name))

    def wait(self, future: Future[Answer]) -> Answer:
        """Return the answer of a future; NOK if it does not come in time."""
        try:
            return future.result(self.worker.timeout + _GRACE)
        except FutureTimeoutError:
            return self.worker.late()

    def record(
        self,
        answer: Answer,
        *,
        image: str,
        data: bytes,
        sha256: str,
        suffix: str = ".png",
        stamp: str = "",
        destination: str = "",
        moved: int = MOVED,
    ) -> dict[str, Any]:
        """Write an answer into the ledger, then let the outputs show it.

        Args: as of `Ledger.add`; `data` and `suffix` are the bytes and the ending of the file.

        Raises:
            LedgerError: it cannot be written; the outputs are NOK.
        """
        try:
            event = self.ledger.add(
                answer,
                image=image,
                sha256=sha256,
                sinks=self.delivery.names,
                stamp=stamp,
                destination=destination,
                moved=moved,
            )
        except LedgerError as error:
            self.fail(str(error))
            raise
        if self._problem:
            self.say("the ledger can be written again")
            self._problem = ""
        for output in self.outputs:
            output.show(answer.decision, answer.score, failed=bool(answer.reason))
        self.delivery.wake()
        with self._lock:
            self._follow(answer, event, data)
        try:
            self.collected.offer(answer, data, sha256, suffix)
        except ToolkitError as error:
            self.say(f"not kept for labelling: {error}")
        return event

    def fail(self, reason: str) -> None:
        """Turn the outputs to NOK because nothing can be answered or recorded."""
        if not self._problem:
            self.say(f"answers are NOK: {reason}")
        self._problem = reason
        self.fail_outputs()

    def fail_outputs(self) -> None:
        """Show NOK for a part that could not be looked at."""
        for output in self.outputs:
            output.show(Outcome.NOK, None, failed=True)

    def swap(self, model: NamedModel) -> None:
        """Let another model answer; drift is tested anew."""
        self.worker.swap(model)
        with self._lock:
            self._start_drift(model)

    def find_recent(self, uid: str) -> Recent | None:
        """Return one of the last images by the id of its event."""
        with self._lock:
            return next((r for r in self.recent if r.event["id"] == uid), None)

    def live(self) -> dict[str, Any]:
        """Return what the live page displays, as JSON values."""
        with self._lock:
            times, recent = list(self._times), list(self.recent)
            evidence, drift = list(self._evidence), self.drift
        now = time.time()
        latest = [t for t in times if now - t[0] <= 60]
        span = now - max(self.started, now - 60)
        if len(latest) == len(times) == (self._times.maxlen or 0):
            span = now - latest[0][0]
        shares = {
            o.value: sum(t[2] is o for t in times) / len(times) if times else None for o in Outcome
        }
        latency = sorted(t[1] for t in times)
        return {
            "model": self.worker.live.name,
            "shadow": None if self.worker.shadow is None else self.worker.shadow.name,
            "alive": self.alive,
            "problem": self._problem,
            "waiting": self.worker.waiting,
            "answers": self.ledger.count(),
            "per_minute": round(60 * len(latest) / max(span, 1.0), 1),
            "shares": shares,
            "latency_ms": {
                name: round(latency[min(len(latency) - 1, int(q * len(latency)))], 1)
                for name, q in (("p50", 0.5), ("p99", 0.99))
                if latency
            },
            "drift": None
            if drift is None
            else {
                "images": drift.count,
                "log10_evidence": drift.log10_evidence,
                "alarm_at": drift.alarm_at,
                "series": evidence,
            },
            "sinks_down": {
                **self.delivery.down,
                **{o.name: o.down for o in self.outputs if o.down},
            },
            **self.ledger.overruled(),
            "recent": [r.event for r in reversed(recent)],
        }

    def close(self) -> None:
        """Answer what waits, leave NOK in the outputs, deliver, and close the ledger."""
        self.worker.close()
        for output in self.outputs:
            output.close()
        self.delivery.close()
        self.ledger.close()

    def _follow(self, answer: Answer, event: dict[str, Any], data: bytes) -> None:
        self._times.append((time.time(), answer.latency_ms, answer.decision))
        small = None if answer.result is None else shrink(answer.result)
        self.recent.append(Recent(event, small, data if len(data) <= _KEPT_BYTES else b""))
        drift = self.drift
        if drift is None or answer.score is None or answer.model != self.worker.live.name:
            return
        alarm = drift.add(answer.score)
        self._plot_evidence(drift)
        if alarm:
            self.say(f"drift: alarm after {drift.count} images; see docs/decisions.md")
            self.ledger.post(
                {"event": "drift", "model": answer.model, "images": drift.count,
                 "log10_evidence": drift.log10_evidence},
                self.delivery.names,
            )  # fmt: skip

    def _plot_evidence(self, drift: DriftMonitor) -> None:
        if drift.count % self._every == 0:
            self._evidence.append((drift.count, round(drift.log10_evidence, 3)))
        if len(self._evidence) > _PLOTTED:
            self._evidence = self._evidence[1::2]
            self._every *= 2

    def _start_drift(self, model: NamedModel) -> None:
        card = model.model.calibration
        self.drift = None
        self._evidence, self._every = [], 1
        if card is None or len(card.good_scores) < 2:
            return
        self.drift = DriftMonitor(card.good_scores)
        for score in self.ledger.scores(model.name):
            self.drift.add(score)
            self._plot_evidence(self.drift)

    def _differ(self, live: Answer, shadow: Answer) -> None:
        try:
            self.ledger.add_difference(live, shadow)
        except LedgerError as error:
            self.say(f"shadow: {error}")


def shrink(result: Result, *, side: int = _SIDE) -> Result:
    """Return a result of which nothing has more than `side` pixels on a side."""
    import cv2
    import numpy as np

    from toolkit.prediction import Boxes

    height, width = result.image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    whole = result.prediction
    heat, mask, boxes = whole.anomaly_map, whole.mask, whole.boxes
    if heat is not None and max(heat.shape) > side:
        heat = cv2.resize(heat, size_wh, interpolation=cv2.INTER_AREA)
    if mask is not None:
        mask = cv2.resize(mask.astype(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST) > 0
    if boxes is not None:
        boxes = Boxes((boxes.xyxy * scale).astype(np.float32), boxes.scores, boxes.labels)
    small = cv2.resize(result.image, size_wh, interpolation=cv2.INTER_AREA)
    prediction = replace(whole, anomaly_map=heat, mask=mask, boxes=boxes)
    return replace(result, image=small, prediction=prediction)


def jpeg(picture: Any, *, quality: int = 90) -> bytes:
    """Encode an RGB picture, uint8 (H, W, 3), as JPEG."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return bytes(cv2.imencode(".jpg", picture[..., ::-1], options)[1].tobytes())

"""Answer the frames of a camera, a network stream or a recorded video through OpenCV."""

from __future__ import annotations

import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import ConfigError, ToolkitError
from toolkit.files import atomic_write
from toolkit.line.ledger import LedgerError
from toolkit.line.station import Station

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SCHEMES = ("rtsp://", "rtsps://", "http://", "https://", "/dev/video")
_VIDEOS = (".avi", ".mp4", ".mkv", ".mov", ".mjpg", ".mjpeg")
_LONGEST = 30.0


def is_camera(source: str) -> bool:
    """Whether a source is a camera's number, its device, a stream or a video; not a folder."""
    return source.isdecimal() or source.startswith(_SCHEMES) or source.endswith(_VIDEOS)


class CameraWatch:
    """Answers one frame in every interval, the newest.

    Where no frame comes, the outputs are NOK, and the camera is opened again and again. The file of
    a video is answered once, up to its end; its intervals are those of the recording.

    Args:
        station: what answers and records.
        source: see `is_camera`.
        out: gets the frames, as PNG in ok/, nok/ and review/; None keeps none.
        every: seconds between two frames that are answered; 0: every frame.
    """

    def __init__(
        self, station: Station, source: str, out: Path | None, *, every: float = 1.0
    ) -> None:
        if not every >= 0:
            raise ConfigError(f"--every {every}: must not be below 0")
        self._station, self._source, self._out, self._every = station, source, out, every
        self._recorded = Path(source).is_file()
        self._down = False
        self._count = 0

    def run(self, stop: threading.Event) -> None:
        """Answer frames until `stop` is set, or a video ends."""
        wait = 1.0
        while not stop.is_set():
            capture = self._open()
            try:
                seen = self._follow(capture, stop)
            finally:
                capture.release()
            if stop.is_set() or (seen and self._recorded):
                return
            if seen:
                wait = 1.0
            self._station.fail_outputs()
            if not self._down:
                self._station.say(f"{self._name()}: no picture; tried again")
                self._down = True
            stop.wait(wait)
            wait = min(_LONGEST, 2 * wait)

    def _name(self) -> str:
        scheme, separator, rest = self._source.partition("://")
        return f"{scheme}{separator}{rest.rpartition('@')[2]}"  # without a password

    def _open(self) -> Any:
        import cv2

        if self._source.isdecimal():
            return cv2.VideoCapture(int(self._source))
        if "://" not in self._source:
            return cv2.VideoCapture(self._source)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 5000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 5000]
        return cv2.VideoCapture(self._source, cv2.CAP_FFMPEG, limits)

    def _follow(self, capture: Any, stop: threading.Event) -> bool:
        """Answer frames until none comes; return whether there was one."""
        seen, due = False, self._now(capture)
        while not stop.is_set() and capture.grab():
            if self._down:
                self._station.say(f"{self._name()}: picture is back")
                self._down = False
            seen = True
            if self._now(capture) < due:
                continue
            there, frame = capture.retrieve()
            if not there:
                break
            due = max(due + self._every, self._now(capture) - self._every)
            self._answer(frame)
        return seen

    def _now(self, capture: Any) -> float:
        import cv2

        return capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 if self._recorded else time.monotonic()

    def _answer(self, bgr: NDArray[np.uint8]) -> None:
        import cv2
        import numpy as np

        station = self._station
        if bgr.ndim == 2:
            bgr = np.repeat(bgr[:, :, None], 3, axis=2)
        rgb = np.ascontiguousarray(bgr[..., ::-1])
        self._count += 1
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{self._count:06d}.png"
        answer = station.wait(station.worker.submit(rgb, name, wait=True))
        data = bytes(cv2.imencode(".png", bgr)[1].tobytes())
        place = ""
        if self._out is not None:
            place = f"{answer.decision.value.lower()}/{name}"
            try:
                with atomic_write(self._out / place) as temporary:
                    temporary.write_bytes(data)
            except ToolkitError as error:
                station.fail(str(error))
                return
        try:
            station.record(
                answer, image=name, data=data, sha256=sha256(data).hexdigest(), destination=place
            )
        except LedgerError:
            time.sleep(1.0)

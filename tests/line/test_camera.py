"""Cameras: a recorded video, and devices and streams that are unplugged and come back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import pytest

from tests.line.conftest import eventually
from tests.line.receivers import listening
from tests.ports import free_port
from toolkit.line.camera import CameraWatch, is_camera
from toolkit.line.station import Station

Make: TypeAlias = Callable[..., Station]


@pytest.mark.parametrize("source", ["0", "rtsp://10.0.0.9/1", "http://h/x", "/dev/video2", "a.avi"])
def test_sources(source: str) -> None:
    assert is_camera(source)
    assert not is_camera(f"folder/{source.replace('/', '_').replace('.', '_')}_")


class HttpCamera:
    """A network camera: JPEGs without end (multipart/x-mixed-replace)."""

    def __init__(self, port: int, level: float) -> None:
        self.address = f"http://127.0.0.1:{port}/"
        self.plugged = True
        frame = np.full((48, 64, 3), int(level), np.uint8)
        jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                while camera.plugged:
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n"
                    try:
                        self.wfile.write(head.encode() + b"\r\n" + jpeg + b"\r\n")
                    except OSError:
                        return
                    threading.Event().wait(0.01)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def unplug(self) -> None:
        """End the stream and refuse the next one."""
        self.plugged = False
        self.server.shutdown()
        self.server.server_close()


RTSP_PROGRAM = """
import sys, numpy, rtsp
frame = numpy.full((48, 64, 3), int(sys.argv[2]), numpy.uint8)
with rtsp.Source(f"rtsp://127.0.0.1:{sys.argv[1]}/live", fps=25, frame_buffer=[frame]) as source:
    source.wait_encoding_started()
    source.serve_forever()
"""


class RtspCamera:
    """A network camera: H.264 over RTSP, by a server in a process of its own."""

    def __init__(self, port: int, level: float) -> None:
        # A folder of its own: the server's FFmpeg is not that of OpenCV.
        packages = Path(sys.prefix) / "rtsp"
        if not packages.is_dir():
            pytest.skip("no RTSP server; install it: .ci/install-rtsp PYTHON")
        self.address = f"rtsp://127.0.0.1:{port}/live"
        words = [sys.executable, "-c", RTSP_PROGRAM, str(port), str(round(level))]
        environment = {**os.environ, "PYTHONPATH": str(packages)}
        self.process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
        eventually(lambda: listening(port) or self.process.poll() is not None)
        assert self.process.poll() is None

    def unplug(self) -> None:
        """Kill the server."""
        self.process.kill()
        self.process.wait(10)


class PipeCamera:
    """A device: a named pipe of JPEGs. A video device would need a module of the kernel."""

    def __init__(self, folder: Path, level: float) -> None:
        self.address = str(folder / "camera.mjpeg")
        self.plugged = True
        frame = np.full((48, 64, 3), int(level), np.uint8)
        self.jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
        os.mkfifo(self.address)
        self.pipe = os.open(self.address, os.O_RDWR | os.O_NONBLOCK)
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def _write(self) -> None:
        while self.plugged:
            with suppress(BlockingIOError):  # nobody reads
                os.write(self.pipe, self.jpeg)  # whole, since it is smaller than a page
            threading.Event().wait(0.001)  # FFmpeg reads a megabyte before it opens a pipe

    def unplug(self) -> None:
        """Take the device away, then end the stream."""
        Path(self.address).unlink(missing_ok=True)
        self.plugged = False
        self.thread.join(10)
        os.close(self.pipe)


def test_a_recorded_video_is_answered_once(
    make_station: Make, level: float, messages: list[str], tmp_path: Path
) -> None:
    video, station = tmp_path / "shift.avi", make_station()
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(30):
        writer.write(np.full((48, 64, 3), int(level) + (40 if number >= 20 else 0), np.uint8))
    writer.release()
    CameraWatch(station, str(video), None, every=0.5).run(threading.Event())
    assert [row["decision"] for row in station.ledger.answers()] == ["OK"] * 4 + ["NOK"] * 2
    assert messages == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [HttpCamera, RtspCamera, PipeCamera])
def test_a_camera_is_unplugged_and_comes_back(
    kind: type[HttpCamera | RtspCamera | PipeCamera],
    make_station: Make,
    level: float,
    messages: list[str],
    tmp_path: Path,
) -> None:
    place: Any = tmp_path if kind is PipeCamera else free_port()
    station, stop = make_station(), threading.Event()
    shown: list[bool] = []
    station.fail_outputs = lambda: shown.append(True)  # type: ignore[method-assign]
    camera = kind(place, level)
    watch = CameraWatch(station, camera.address, tmp_path / "frames", every=0.02)
    thread = threading.Thread(target=watch.run, args=[stop])
    thread.start()
    try:
        eventually(lambda: station.ledger.count() >= 3)
        camera.unplug()
        eventually(lambda: messages)
        assert messages == [f"{camera.address}: no picture; tried again"]
        assert shown
        before = station.ledger.count()
        camera = kind(place, level)
        eventually(lambda: station.ledger.count() > before)
        assert messages[1:] == [f"{camera.address}: picture is back"]
    finally:
        stop.set()
        thread.join(30)
        camera.unplug()
    rows = station.ledger.answers()
    assert {row["decision"] for row in rows} == {"OK"}
    assert all((tmp_path / "frames" / row["destination"]).is_file() for row in rows)
    assert len({row["image"] for row in rows}) == len(rows)

"""Cameras: a video, and network streams that are unplugged and come back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import pytest

from tests.line.conftest import eventually
from tests.line.receivers import free_port, listening
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


@pytest.mark.parametrize("kind", [HttpCamera, RtspCamera])
def test_a_network_camera_is_unplugged_and_comes_back(
    kind: type[HttpCamera | RtspCamera],
    make_station: Make,
    level: float,
    said: list[str],
    tmp_path: Path,
) -> None:
    port, station, stop = free_port(), make_station(), threading.Event()
    shown: list[bool] = []
    station.fail_outputs = lambda: shown.append(True)  # type: ignore[method-assign]
    camera = kind(port, level)
    watch = CameraWatch(station, camera.address, tmp_path / "frames", every=0.02)
    thread = threading.Thread(target=watch.run, args=[stop])
    thread.start()
    try:
        eventually(lambda: station.ledger.count() >= 3)
        camera.unplug()
        eventually(lambda: said)
        assert said == [f"{camera.address}: no picture; tried again"]
        assert shown
        before = station.ledger.count()
        camera = kind(port, level)
        eventually(lambda: station.ledger.count() > before)
        assert said[1:] == [f"{camera.address}: picture is back"]
    finally:
        stop.set()
        thread.join(30)
        camera.unplug()
    rows = station.ledger.answers()
    assert {row["decision"] for row in rows} == {"OK"}
    assert all((tmp_path / "frames" / row["destination"]).is_file() for row in rows)
    assert len({row["image"] for row in rows}) == len(rows)

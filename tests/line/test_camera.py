"""A camera: a video, and a network stream that is unplugged and comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.line.conftest import eventually
from tests.line.receivers import free_port
from toolkit.line.camera import CameraWatch, is_camera
from toolkit.line.station import Station

Make = Callable[..., Station]


@pytest.mark.parametrize("source", ["0", "rtsp://10.0.0.9/1", "http://h/x", "/dev/video2", "a.avi"])
def test_sources(source: str) -> None:
    assert is_camera(source)
    assert not is_camera(f"folder/{source.replace('/', '_').replace('.', '_')}_")


class Stream:
    """A network camera: JPEGs without end (multipart/x-mixed-replace)."""

    def __init__(self, port: int, level: float) -> None:
        self.plugged = True
        frame = np.full((48, 64, 3), int(level), np.uint8)
        jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
        stream = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                while stream.plugged:
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


def test_a_network_camera_is_unplugged_and_comes_back(
    make_station: Make, level: float, said: list[str], tmp_path: Path
) -> None:
    port, station, stop = free_port(), make_station(), threading.Event()
    shown: list[bool] = []
    station.fail_outputs = lambda: shown.append(True)  # type: ignore[method-assign]
    watch = CameraWatch(station, f"http://127.0.0.1:{port}/", tmp_path / "frames", every=0.02)
    stream = Stream(port, level)
    thread = threading.Thread(target=watch.run, args=[stop])
    thread.start()
    eventually(lambda: station.ledger.count() >= 3, 20)
    stream.unplug()
    eventually(lambda: said, 20)
    assert said == [f"http://127.0.0.1:{port}/: no picture; tried again"]
    assert shown
    before = station.ledger.count()
    again = Stream(port, level)
    eventually(lambda: station.ledger.count() > before, 30)
    assert "picture is back" in said[-1]
    stop.set()
    thread.join(20)
    again.unplug()
    rows = station.ledger.answers()
    assert {row["decision"] for row in rows} == {"OK"}
    assert all((tmp_path / "frames" / row["destination"]).is_file() for row in rows)
    assert len({row["image"] for row in rows}) == len(rows)

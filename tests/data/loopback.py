"""A server on this machine that sends a small archive, and misbehaves as it is told to."""

from __future__ import annotations

import io
import random
import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FILES = {
    "train/good/000.png": random.Random(0).randbytes(40_000),
    "train/good/001.png": random.Random(1).randbytes(40_000),
    "test/good/000.png": random.Random(2).randbytes(40_000),
    "test/crack/000.png": random.Random(3).randbytes(40_000),
    "ground_truth/crack/000_mask.png": b"mask",
    "license.txt": b"terms",
}


def tar_xz(files: dict[str, bytes], *, top: str = "tiny/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = tar_xz(FILES)
BLOCK = 1 << 14  # a connection cut at such a multiple loses nothing of what was sent


@dataclass
class Server:
    """What the server does, and what it was asked.

    Attributes:
        body: the archive.
        tag: its entity tag; None: the server sends none.
        ranges: whether it honours `Range`.
        cuts: bytes to send per request before it hangs up; when used up, everything is sent.
        status: answer this instead.
        asked: the `Range` header of each request.
    """

    body: bytes = ARCHIVE
    tag: str | None = '"v1"'
    ranges: bool = True
    kind: str = "application/x-xz"
    cuts: list[int] = field(default_factory=list)
    status: int = 200
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving() -> Iterator[Server]:
    """Serve `Server.body` until the block ends; change the state to change the behaviour."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if state.status != 200:
                self.send_error(state.status)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0  # type: ignore[index]
            condition = self.headers.get("If-Range")
            partial = bool(wanted) and state.ranges and condition in (None, state.tag)
            if partial and start >= len(state.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(state.body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = start if partial else 0
            rest = state.body[start:]
            self.send_response(206 if partial else 200)
            if partial:
                span = f"bytes {start}-{len(state.body) - 1}/{len(state.body)}"
                self.send_header("Content-Range", span)
            if state.tag:
                self.send_header("ETag", state.tag)
            self.send_header("Content-Type", state.kind)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: state.cuts.pop(0)] if state.cuts else rest)

        def log_message(self, *arguments: object) -> None:
            """Keep the test output clean."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{httpd.server_port}/tiny.tar.xz"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()

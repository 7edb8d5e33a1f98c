"""A registry of invented checkpoints, a loopback server, and stand-ins for pip and npm."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit.home import weights_dir


@dataclass
class Server:
    """What the loopback server answers, and which paths were asked for."""

    url: str
    content: bytes = b"the official file"
    status: int = 200
    withheld: int = 0  # bytes announced in Content-Length but never sent
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            facts.asked.append(self.path)
            self.send_response(facts.status)
            self.send_header("Content-Length", str(len(facts.content) + facts.withheld))
            self.end_headers()
            self.wfile.write(facts.content)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    facts = Server(url=f"http://127.0.0.1:{httpd.server_port}/model.pt")
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    yield facts
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def write_registry() -> Callable[..., Path]:
    """Return a function that puts a registry of its keyword arguments under the test's home."""

    def write(**entries: dict[str, Any]) -> Path:
        path = weights_dir() / "registry.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {
            name: {"description": name, "licence": "MIT", "file": f"{name}.pt", **facts}
            for name, facts in entries.items()
        }
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")
        return path

    return write


@pytest.fixture
def fake_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that replaces pip or npm by a script and returns its log of calls."""

    def install(client: str, *, archive: Path | None, complaint: str = "") -> Path:
        folder = tmp_path / f"fake-{client}"
        folder.mkdir()
        log, script = folder / "calls.log", folder / client
        work = f"cp '{archive}' ." if archive is not None else f"echo '{complaint}' >&2; exit 1"
        script.write_text(f"#!/bin/sh\necho \"$@\" >> '{log}'\n{work}\n", encoding="utf-8")
        script.chmod(0o755)
        if client == "npm":
            monkeypatch.setenv("PATH", str(folder), prepend=":")
        else:
            monkeypatch.setattr("sys.executable", str(script))
        return log

    return install

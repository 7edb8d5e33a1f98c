"""Two processes on one thing: one waits or is refused in a line, and nothing is mixed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.trust.test_kills import (
    FEATURES,
    YAML,
    Server,
    data,
    differences,
    place,
    server,
    snapshot,
)
from toolkit.runs.run import Run
from toolkit.verification.verify import verify

__all__ = ["data", "place", "server"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and file locks"),
]
PAIRS = int(os.environ.get("TOOLKIT_PAIRS", "2"))
REFUSED = (
    "already there", "a run of this name exists", "another process", "Directory not empty",
)  # fmt: skip
TRAIN = ["train", "padim", "--data", "DATA", *FEATURES, "--n-features", "8"]
CONVERT = ["convert", "--to", "yolo", "--data", "DATA", "--out", "out"]
# What each of two processes does, and how many may be refused.
BOTH = {
    "one run": ([*TRAIN, "--name", "run"], [*TRAIN, "--name", "run"], 1),
    "one run, resumed": ([*TRAIN, "--name", "run", "--resume"],) * 2 + (1,),
    "numbered runs": (TRAIN, TRAIN, 0),
    "one cache": ([*TRAIN, "--name", "a"], [*TRAIN, "--name", "b"], 0),
    # Each may meet a run that the other is training; the rest is shared.
    "one benchmark": (["benchmark", "small.yaml", "--data", "DATA"],) * 2 + (2,),
    "one output": (CONVERT, CONVERT, 1),
    "one output, replaced": ([*CONVERT, "--overwrite"],) * 2 + (1,),
}


@pytest.mark.parametrize("name", BOTH)
def test_two_at_once(
    name: str, server: Server, place: Path, data: Path, record_property: Callable[..., None]
) -> None:
    record_property("cases", PAIRS)
    *commands, most_refused = BOTH[name]
    commands = [[word.replace("DATA", str(data)) for word in words] for words in commands]
    alone = _folder(place, f"{name} alone")
    seconds = 0.0
    for words in commands:  # one after the other
        done = server.run(alone, words)
        text = (alone / "command.log").read_text()
        assert done["code"] == 0 or any(one in text for one in REFUSED), text
        seconds = max(seconds, done["seconds"])
    wanted = snapshot(alone)
    draw = random.Random(name)
    for number in range(PAIRS):
        folder = _folder(place, f"{name} {number}")
        delays = [0.0, 0.0 if number == 0 else draw.uniform(0, seconds)]
        codes = server.together(folder, commands, delays)
        texts = [(folder / f"command-{one}.log").read_text() for one in range(2)]
        assert "Traceback" not in "".join(texts), texts
        assert sum(code != 0 for code in codes) <= most_refused, (delays, codes, texts)
        for code, text in zip(codes, texts, strict=True):
            assert code == 0 or any(one in text.splitlines()[-1] for one in REFUSED), texts
        assert not differences(snapshot(folder), wanted), (delays, texts)
        assert not verify([folder]).damaged
        assert not [p for p in folder.rglob("*") if ".tmp-" in p.name or p.name == ".lock"]
        shutil.rmtree(folder)


def _folder(place: Path, name: str) -> Path:
    folder = place / f"pair-{name}".replace(" ", "-").replace(",", "")
    folder.mkdir()
    (folder / "small.yaml").write_text(YAML)
    return folder


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address that sends a checkpoint slowly."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            for start in range(0, len(CONTENT), 4096):
                self.wfile.write(CONTENT[start : start + 4096])
                self.wfile.flush()
                pause.wait(0.02)

        def log_message(self, *_: object) -> None:
            pass

    pause = threading.Event()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/net.pt"
    httpd.shutdown()
    httpd.server_close()


CONTENT = random.Random(0).randbytes(60_000)


def test_one_download(address: str, server: Server, place: Path) -> None:
    weights = place / "home/weights"
    weights.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    entry = {"description": "net", "licence": "MIT", "file": "net.pt", "url": address,
             "sha256": sha256}  # fmt: skip
    (weights / "registry.yaml").write_text(yaml.safe_dump({"net": entry}))
    fetch = ["weights", "fetch", "net"]
    for number in range(PAIRS):
        folder = _folder(place, f"download {number}")
        codes = server.together(folder, [fetch, fetch, fetch], [0.0, 0.05 * number, 0.1])
        texts = [(folder / f"command-{one}.log").read_text() for one in range(3)]
        assert codes == [0, 0, 0], texts
        assert (weights / "net.pt").read_bytes() == CONTENT
        assert {p.name for p in weights.iterdir()} == {"net.pt", "registry.yaml"}
        (weights / "net.pt").unlink()


HOLD = """
import sys, time
from pathlib import Path
from toolkit.runs.run import Run
with Run.open(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_dead_process_is_noticed(
    server: Server, place: Path, data: Path, tiny_locked: Callable[[Path], subprocess.Popen[str]]
) -> None:
    folder = _folder(place, "dead")
    words = [w.replace("DATA", str(data)) for w in [*TRAIN, "--name", "run", "--resume"]]
    run = folder / "runs/padim/run"
    steps = server.run(folder, words)["steps"]
    assert steps
    wanted = snapshot(folder)
    shutil.rmtree(folder / "runs")
    server.run(folder, words, step=steps - 10)
    assert (run / ".lock").exists()
    assert not Run.open(run).finished
    holder = tiny_locked(run)
    assert server.run(folder, words)["code"] == 2
    last = (folder / "command.log").read_text().splitlines()[-1]
    assert "another process is training this run" in last
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (run / ".lock").exists()
    assert server.run(folder, words)["code"] == 0, (folder / "command.log").read_text()
    assert not differences(snapshot(folder), wanted)


@pytest.fixture
def tiny_locked() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Start processes that hold the lock of a run; they end with the test."""
    held: list[subprocess.Popen[str]] = []

    def hold(run: Path) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", HOLD, str(run)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env)
        held.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        return process

    yield hold
    for process in held:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

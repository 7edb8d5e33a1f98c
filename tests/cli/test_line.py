"""Commands of the line as processes of their own: started, used, stopped, and read afterwards."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.cli.command import run as call
from tests.line.conftest import eventually
from tests.tiny import TinyRuns
from toolkit.decisions.calibration import false_alarm_threshold
from toolkit.decisions.card import CalibrationCard
from toolkit.errors import ConfigError, ToolkitError
from toolkit.line.ledger import Ledger
from toolkit.runs.run import Run

# A shell lets what it starts in the background ignore SIGINT, and so would these processes.
PROGRAM = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    " from toolkit.cli.main import main; main()",
]
Start = Callable[..., "Process"]


class Process:
    """A command that runs, and the lines that it has printed."""

    def __init__(self, words: list[str], folder: Path) -> None:
        environment = {"TOOLKIT_ENGINE": "torch", **os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*PROGRAM, *words], cwd=folder, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.messages: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.messages.extend(self.process.stderr)

    def wait_for(self, words: str) -> str:
        """Return the first line that holds these words."""
        eventually(lambda: any(words in line for line in self.messages) or self.process.poll())
        return next((line for line in self.messages if words in line), "".join(self.messages))

    def stop(self, number: signal.Signals) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start commands, which are ended after the test."""
    made: list[Process] = []

    def start(*words: object) -> Process:
        made.append(Process([str(word) for word in words], tmp_path))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait(30)


@pytest.fixture
def patchcore(tiny_runs: TinyRuns) -> Run:
    """A small PatchCore."""
    return tiny_runs("patchcore")


def images(sample_dir: Path, count: int) -> list[Path]:
    return sorted((sample_dir / "test").glob("*/*.png"))[:count]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_a_service_finishes_what_it_has_begun_when_it_is_stopped(
    start: Start, patchcore: Run, sample_dir: Path, tmp_path: Path, number: signal.Signals,
    status: int,
) -> None:  # fmt: skip
    serve = start("serve", patchcore.path, "--port", 0, "--state", "state")
    address = serve.wait_for(" at http://").split(" at ")[1].split("/,")[0]
    (first, *_) = images(sample_dir, 1)
    answers: list[requests.Response] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                answers.append(
                    requests.post(f"{address}/predict", data=first.read_bytes(), timeout=30)
                )
            except requests.ConnectionError:
                return  # it takes no more

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    eventually(lambda: len(answers) > 5)
    assert serve.stop(number) == status
    for client in clients:
        client.join(30)
    assert {answer.status_code for answer in answers} <= {200, 503}
    given = [answer for answer in answers if answer.status_code == 200]
    ids = {answer.json()["results"][0]["id"] for answer in given}
    assert len(ids) == len(given)
    ledger = Ledger(tmp_path / "state/ledger.sqlite", read_only=True)
    assert ids <= {row["uid"] for row in ledger.answers()}
    assert not any("Traceback" in line for line in serve.messages)


@pytest.mark.slow
def test_a_service_stops_after_a_swap(
    start: Start, patchcore: Run, sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's first core gave the main thread a stack for signals, and took it away."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    monkeypatch.setenv("TOOLKIT_ENGINE", "openvino")
    run = tmp_path / "models/patchcore/one"
    shutil.copytree(patchcore.path, run)
    for one in images(sample_dir, 99):
        place = tmp_path / "frozen" / ("ok" if one.parent.name == "good" else "nok")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(one, place / f"{one.parent.name}-{one.name}")
    serve = start("serve", run, "--port", 0, "--state", "state", "--token", "t" * 16,
                  "--models", "models", "--frozen", "frozen")  # fmt: skip
    address = serve.wait_for(" at http://").split(" at ")[1].split("/,")[0]
    bearer = {"Authorization": f"Bearer {'t' * 16}"}
    asked = requests.post(
        f"{address}/models", params={"run": "patchcore/one"}, headers=bearer, timeout=60
    )
    assert asked.json()["accepted"], asked.text
    assert serve.stop(signal.SIGTERM) == -signal.SIGTERM


@pytest.mark.slow
def test_a_watched_folder_is_answered_and_the_ledger_read(
    start: Start, patchcore: Run, sample_dir: Path, tmp_path: Path
) -> None:
    camera = tmp_path / "camera"
    camera.mkdir()
    watch = start("watch", patchcore.path, "camera", "--state", "state", "--settle", 0, "--port", 0)
    page = watch.wait_for("live page: ").split("live page: ")[1].strip()
    watch.wait_for("watching camera")
    for file in images(sample_dir, 4):
        shutil.copy(file, camera / f"{file.parent.name}-{file.name}")
    (camera / "cut.png").write_bytes(images(sample_dir, 1)[0].read_bytes()[:60])
    eventually(lambda: len(requests.get(f"{page}live", timeout=10).json()["recent"]) == 5)
    eventually(lambda: not list(camera.glob("*.png")))
    assert watch.stop(signal.SIGTERM) == 0
    stats = json.loads(call("ledger", "stats", tmp_path / "state", "--json").stdout)
    assert (stats["answers"], stats["failed"]) == (5, 1)
    assert "5 answers, 1 of them NOK" in call("ledger", "stats", tmp_path / "state").stdout
    shown = call("ledger", "show", tmp_path / "state", "--last", 9).stdout.splitlines()
    assert len(shown) == 5
    assert sum("cut.png" in line and "NOK" in line for line in shown) == 1
    out = tmp_path / "answers.csv"
    assert call("ledger", "export", tmp_path / "state", "--out", out).exit_code == 0
    with out.open(encoding="utf-8") as written:
        rows = list(csv.DictReader(written))
    assert all((camera / row["destination"]).is_file() for row in rows)
    for wrong in (["--out", "a.txt"], ["--out", str(out), "--what", "x"]):
        with pytest.raises(ConfigError, match=wrong[-1]):
            call("ledger", "export", tmp_path / "state", *wrong)
    with pytest.raises(ToolkitError, match="nowhere"):
        call("ledger", "show", tmp_path / "nowhere")


@pytest.mark.slow
def test_wrong_input_of_the_line_is_one_line(start: Start, patchcore: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        begun = [
            start("serve", patchcore.path, "--port", port),
            start("serve", tmp_path / "no-run", "--port", 0),
            start("serve", patchcore.path, "--host", "0.0.0.0", "--port", 0),
            start("watch", patchcore.path, tmp_path / "no-folder"),
            start("watch", patchcore.path, tmp_path, "--sort", "burn"),
        ]
        wanted = ["in use", "no-run", "--token-file", "no-folder", "--sort burn"]
        for one, words in zip(begun, wanted, strict=True):
            assert one.process.wait(60) == 2
            assert words in one.wait_for(words)
            assert not any("Traceback" in line for line in one.messages)


@pytest.mark.parametrize("command", ["serve", "watch"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("card", "was made for another model .padim/007.*toolkit calibrate"),
        ("run", "not finished"),
        ("ledger", "of schema 7, this version reads schema 1; choose another --state"),
    ],
)
def test_what_a_line_cannot_begin_with(
    command: str, wrong: str, message: str, patchcore: Run, tmp_path: Path
) -> None:
    run, words = patchcore.path, ["--state", tmp_path / "state", "--engine", "torch"]
    if wrong == "card":
        threshold = false_alarm_threshold([1.0, 2.0], max_false_alarms=0.5)
        images = [{"name": "a.png", "sha256": "0", "score": score} for score in (2.0, 1.0)]
        model = {"method": "padim", "name": "007", "sha256": "0"}
        card = CalibrationCard(model, "", threshold, None, {"folder": "x", "images": images})
        card.write(tmp_path / "card.json")
        words += ["--calibration", tmp_path / "card.json"]
    if wrong == "run":
        run = tmp_path / "runs/patchcore/begun"
        shutil.copytree(patchcore.path, run, ignore=shutil.ignore_patterns("metrics.json"))
    if wrong == "ledger":
        Ledger(tmp_path / "state/ledger.sqlite").close()
        with sqlite3.connect(tmp_path / "state/ledger.sqlite") as db:
            db.execute("PRAGMA user_version=7")
    words += [tmp_path] if command == "watch" else ["--port", 0]
    with pytest.raises(ToolkitError, match=message) as found:
        call(command, run, *words)
    assert "\n" not in str(found.value)


def test_feedback_is_kept_learned_and_refused(
    patchcore: Run, sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/patchcore/mine"
    shutil.copytree(patchcore.path, run)
    good = sorted((sample_dir / "test/good").glob("*.png"))
    bad = [p for p in images(sample_dir, 99) if p.parent.name != "good"]
    for place, files in (("ok", good[2:4]), ("nok", bad[:2])):
        (tmp_path / "frozen" / place).mkdir(parents=True)
        for file in files:
            shutil.copy(file, tmp_path / "frozen" / place / file.name)
    kept = call("feedback", run, good[0], "--truth", "ok", "--state", "state", "--who", "ann")
    assert kept.exit_code == 0
    assert "nothing is learned without --frozen" in kept.stderr
    assert len(list((tmp_path / "state/labelled/images/good").iterdir())) == 1
    learned = call("feedback", run, good[1], "--truth", "ok", "--state", "state",
                   "--frozen", "frozen")  # fmt: skip
    assert learned.exit_code in (0, 1)
    rows = Ledger(tmp_path / "state/ledger.sqlite", read_only=True).feedback()
    assert [row["truth"] for row in rows] == ["ok", "ok"]
    assert rows[0]["who"] == "ann"
    with pytest.raises(ConfigError, match="--truth maybe"):
        call("feedback", run, good[0], "--truth", "maybe", "--state", "state")

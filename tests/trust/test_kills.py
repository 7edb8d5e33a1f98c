"""Killed at any moment: the repeated command ends as if nothing had happened.

A few kills of each command here; `make trust` spreads 500 over the commands.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml

from tests.data.loopback import serving, tar_xz
from tests.trust import kill_server
from toolkit.data.synthetic import make_sample
from toolkit.verification.verify import verify

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

KILLS = int(os.environ.get("TOOLKIT_KILLS", "0"))
FEATURES = ["--weights", "none", "--image-size", "64"]
YAML = """\
name: small
protocol: supervised
n_folds: 3
folds: [0]
seeds: [0]
methods:
  - config: padim/default
    name: padim
    overrides: {weights: none, image_size: 64, n_features: 8}
  - config: patchcore/default
    name: patchcore
    overrides: {weights: none, image_size: 64, coreset_size: 20}
"""
# What differs between two undisturbed runs.
VOLATILE = {
    "seconds", "fit_seconds", "seconds_per_epoch", "time", "peak_memory_mb", "created", "finished",
    "started", "environment", "latency", "speed", "ms_per_image_median", "ms_per_image_p95",
    "images_per_second", "decode_ms_median", "decode_seconds", "run_sha256", "model_sha256",
    "checkpoint_sha256", "checkpoint_bytes", "phase_seconds",
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command, and what is repeated after a kill.

    Attributes:
        name: of the test.
        words: `DATA` and `RUN` stand for the sample and a finished run of it.
        again: added to the words when it is repeated.
        kills: in the short run; 0 for commands that take too long for it.
        share: of the kills of the long run, by the time that one takes.
        by_time: the share of kills that come at a moment, and not at a step of this process.
    """

    name: str
    words: list[str]
    again: tuple[str, ...] = ()
    kills: int = 6
    share: float = 1.0
    by_time: float = 0.25


TRAIN = ["train", "--data", "DATA", "--name", "run", *FEATURES]
# One view of each of two images: the encoder takes most of the time.
SAM = [
    f"--set={one}"
    for one in ("augmentations=1", "crops_per_region=0", "negative_images=1",
                "samples_per_epoch=4", "validate_every=1", "points_per_side=2")
]  # fmt: skip
COMMANDS = [
    *(
        Command(to, ["convert", "--to", to, "--data", "DATA", "--out", "out"], kills=4)
        for to in ("yolo", "yolo-seg", "coco", "imagefolder")
    ),
    Command("sam", ["convert", "--to", "sam", "--data", "DATA", "--out", "out", "--images=copy"]),
    Command(
        "train padim",
        ["train", "padim", *TRAIN[1:], "--n-features", "8"],
        again=("--resume",),
        kills=8,
    ),
    Command(
        "train classifier",
        ["train", "classifier", *TRAIN[1:], "--network", "resnet18", "--finetune-epochs", "1"],
        again=("--resume",),
        kills=4,
    ),
    Command(
        "finetune yolo",
        ["finetune", "yolo", *TRAIN[1:], "--epochs=2", "--set=background_images=2"],
        again=("--resume",),
        kills=0,
        share=0.5,
    ),
    Command(
        "finetune sam",
        ["finetune", "sam", *TRAIN[1:-2], "--epochs=1", *SAM],
        again=("--resume",),
        kills=0,
        share=0.2,
    ),
    Command("benchmark", ["benchmark", "small.yaml", "--data", "DATA"], kills=8),
    # Most of its steps are those of its processes, which end with it.
    Command(
        "benchmark of two processes",
        ["benchmark", "small.yaml", "--data", "DATA", "--jobs", "2"],
        kills=0,
        share=0.3,
        by_time=0.8,
    ),
    Command("predict", ["predict", "RUN", "DATA/test", "--out", "out"], again=("--resume",)),
    Command("report", ["report", "RUN", "--out", "out/report.html"], kills=2),
    Command(
        "download", ["dataset", "download", "tiny", "--accept-licence", "--out", "out"], kills=4
    ),
]


class Server:
    """The process that runs and kills commands."""

    def __init__(self, home: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, kill_server.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ, "TOOLKIT_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path),
                "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1",
            },
        )  # fmt: skip
        self._answer()

    def run(self, folder: Path, words: list[str], **kill: Any) -> dict[str, Any]:
        """Run a command in a folder; see `kill_server.serve`."""
        return self._ask({"cwd": str(folder), "argv": words, **kill})

    def together(self, folder: Path, commands: list[list[str]], delays: list[float]) -> list[int]:
        """Run commands at once; return their exit statuses. See `kill_server.serve_together`."""
        request = {"cwd": str(folder), "commands": commands, "delays": delays}
        return list(self._ask(request)["codes"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    opened = Server(place / "home")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    return make_sample(place / "data", seed=2, size=64, train_good=4, test_good=6, per_defect=6)


@pytest.fixture(scope="module")
def trained(server: Server, place: Path, data: Path) -> Path:
    """A run that predicts."""
    folder = place / "trained"
    folder.mkdir()
    words = ["train", "padim", "--data", str(data), "--name", "run", *FEATURES, "--n-features", "8"]
    assert server.run(folder, words)["code"] == 0, (folder / "command.log").read_text()
    return folder / "runs/padim/run"


@pytest.fixture(scope="module")
def download(place: Path, data: Path) -> Iterator[None]:
    """A data card `tiny`, whose archive a server on this machine sends."""
    files = {p.relative_to(data).as_posix(): p for p in sorted(data.rglob("*")) if p.is_file()}
    test = [name for name in files if name.startswith("test/")]
    good = [name for name in test if name.startswith("test/good/")]
    with serving() as sent:
        sent.body = tar_xz({name: path.read_bytes() for name, path in files.items()})
        card = {
            "name": "tiny", "title": "Tiny", "product": "nothing", "source": "here",
            "citation": None, "licence": "MIT", "licence_url": "here", "fingerprint": None,
            "archive": {"url": sent.url, "size": len(sent.body),
                        "sha256": hashlib.sha256(sent.body).hexdigest()},
            "counts": {"train_good": sum(name.startswith("train/") for name in files),
                       "test_good": len(good), "test_defective": len(test) - len(good)},
            "symmetry": {"flips": [], "rotation": "none"}, "defects": {},
        }  # fmt: skip
        (place / "home/datasets").mkdir(parents=True, exist_ok=True)
        (place / "home/datasets/tiny.yaml").write_text(yaml.safe_dump(card))
        yield


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [one for one in COMMANDS if KILLS or one.kills], ids=lambda one: one.name
)
def test_a_killed_command_ends_like_an_undisturbed_one(
    command: Command,
    server: Server,
    place: Path,
    data: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[..., None],
) -> None:
    if command.name == "download":
        request.getfixturevalue("download")
    run = str(request.getfixturevalue("trained")) if "RUN" in command.words else ""
    words = [w.replace("DATA", str(data)).replace("RUN", run) for w in command.words]
    whole = _folder(place, f"{command.name} whole")
    done = server.run(whole, words)
    assert done["code"] == 0, (whole / "command.log").read_text()
    wanted = snapshot(whole)
    assert wanted
    draw = random.Random(command.name)
    shares = sum(one.share for one in COMMANDS)
    kills = max(1, round(KILLS * command.share / shares)) if KILLS else command.kills
    record_property("cases", kills)
    for number in range(kills):
        folder = _folder(place, f"{command.name} {number}")
        moment = (
            {"seconds": draw.uniform(0.05, done["seconds"])}
            if draw.random() < command.by_time
            else {"step": draw.randrange(done["steps"])}
        )
        killed = server.run(folder, words, **moment)
        assert killed["code"] in (-9, 0), (moment, (folder / "command.log").read_text())
        again = server.run(folder, [*words, *command.again])
        text = (folder / "command.log").read_text()
        assert again["code"] == 0 or "already there" in text, (moment, text)
        assert "Traceback" not in text, (moment, text)
        assert not differences(snapshot(folder), wanted), (moment, text)
        assert not [p for p in folder.rglob("*") if ".tmp-" in p.name], (moment, text)
        if command.name not in ("predict", "report", "download"):  # these write no checksums
            assert not verify([folder]).damaged, (moment, text)
        shutil.rmtree(folder)


def _folder(place: Path, name: str) -> Path:
    folder = place / name.replace(" ", "-")
    folder.mkdir()
    (folder / "small.yaml").write_text(YAML)
    return folder


def snapshot(folder: Path) -> dict[str, Any]:
    """Return every file below a folder by its name, without what no two runs share."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (
            path.is_dir()
            # Ultralytics' caches hold the folder, and the record of its inputs hashes of it.
            or path.suffix in (".csv", ".cache")
            # Its pictures are drawn after the last epoch, and not again where that was reached.
            or "/yolo/run/plots/" in f"/{name}"
            or path.name in ("small.yaml", "log.txt", ".lock", "checksums.json", ".inputs.json")
            or re.fullmatch(r"command.*\.log", path.name)
        ):
            continue
        if path.suffix in (".json", ".jsonl"):
            text = path.read_text().replace(str(folder), "")
            lines = text.splitlines() if path.suffix == ".jsonl" else [text]
            found[name] = [_steady(json.loads(line)) for line in lines]
        elif path.suffix == ".safetensors":  # its header has no order
            tensors = safetensors.torch.load_file(path)
            found[name] = {key: tensor.numpy().tobytes() for key, tensor in tensors.items()}
        elif path.suffix in (".html", ".png", ".pt") and not name.startswith("out/"):
            found[name] = (
                "there"  # times are drawn, and PyTorch's archives hold an order of their own
            )
        else:
            found[name] = path.read_bytes().replace(os.fsencode(folder), b"")
    return found


def differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Return where two snapshots differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted({*found, *wanted})
            for line in differences(found.get(key), wanted.get(key), f"{name}/{key}")
        ]
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{name}[{i}]")]
    return [] if found == wanted else [f"{name}: {str(found)[:80]} instead of {str(wanted)[:80]}"]


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if k not in VOLATILE}
    return [_steady(one) for one in value] if isinstance(value, list) else value

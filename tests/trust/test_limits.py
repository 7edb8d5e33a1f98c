"""A full disk, a file limit, too little memory, folders without rights or vanished.

Each ends in one line that names it. What was there is untouched, nothing is half-written, and
the repeated command ends as if nothing had happened.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trust.test_kills import (
    FEATURES,
    YAML,
    Server,
    data,
    differences,
    place,
    server,
    snapshot,
    trained,
)
from toolkit.verification.verify import verify

__all__ = ["data", "place", "server", "trained"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs fork, tmpfs and resource limits"),
]
TRAIN = ["train", "padim", "--data", "DATA", "--name", "run", *FEATURES, "--n-features", "8"]
COMMANDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "convert": (["convert", "--to", "yolo", "--data", "DATA", "--out", "out", "--images=copy"], ()),
    "coco": (["convert", "--to", "coco", "--data", "DATA", "--out", "out", "--images=copy"], ()),
    "train": (TRAIN, ("--resume",)),
    "benchmark": (["benchmark", "small.yaml", "--data", "DATA"], ()),
    "predict": (["predict", "RUN", "DATA/test", "--out", "out"], ("--resume",)),
    "export": (["export", "RUN", "--to", "onnx", "--out", "out"], ()),
    "split": (["dataset", "split", "DATA", "--out", "out/a.split.json"], ()),
    "manifest": (["manifest", "DATA", "--format", "jsonl", "--out", "out"], ("",)),
}
Try = Callable[..., None]
# All of them take minutes: `make trust` sets it.
ALL = bool(os.environ.get("TOOLKIT_LIMITS"))
NAMES = list(COMMANDS) if ALL else ["convert", "train", "predict"]


def some(*values: Any) -> list[Any]:
    """Return all values in the long run, else the one in the middle."""
    return list(values) if ALL else [values[len(values) // 2]]


@pytest.fixture
def attempt(
    request: pytest.FixtureRequest, server: Server, place: Path, data: Path, tmp_path: Path
) -> Try:
    """Return a function that runs a command where something is short, and then where it is not."""

    def run(
        name: str,
        folder: Path,
        *,
        expected: tuple[str, ...],
        relieve: Callable[[], object] = lambda: None,
        may_succeed: bool = True,
        **limits: Any,
    ) -> None:
        words, again = COMMANDS[name]
        trained = str(request.getfixturevalue("trained")) if "RUN" in words else ""
        words = [w.replace("DATA", str(data)).replace("RUN", trained) for w in words]
        wanted = _undisturbed(name, words, server, place)
        before = snapshot(Path(trained)) if trained else {}
        log = tmp_path / "command.log"
        found = server.run(folder, words, log=str(log), **limits)
        text = log.read_text()
        context = (name, limits, found, text[-1500:])
        assert "Traceback" not in text, context
        if found["code"] == 0:
            assert may_succeed, context
        else:
            assert found["code"] in (1, 2), context
            assert any(one in text for one in expected), context
        # To list a folder, and so to remove it, needs an open file; the repeated command does it.
        if "NOFILE" not in limits.get("limits", {}):
            assert not [p for p in folder.rglob("*") if ".tmp-" in p.name], context
        if folder.is_dir():
            # A run that was not finished lacks its metrics, and that alone may be said of it.
            damaged = verify([folder]).damaged if any(folder.rglob("*.json")) else ()
            assert not [one for one in damaged if one.path.name != "metrics.json"], context
        relieve()
        folder.mkdir(exist_ok=True)
        (folder / "small.yaml").write_text(YAML)
        extra = [word for word in again if word]
        repeated = server.run(folder, [*words, *extra], log=str(log))
        text = log.read_text()
        assert repeated["code"] == 0 or "already" in text.splitlines()[-1], (*context, text)
        assert not differences(snapshot(folder), wanted), context
        assert not trained or snapshot(Path(trained)) == before

    return run


_whole: dict[Path, dict[str, Any]] = {}  # by folder: workers may set up a module twice


def _undisturbed(name: str, words: list[str], server: Server, place: Path) -> dict[str, Any]:
    folder = place / f"limits-{name}"
    if folder not in _whole:
        folder.mkdir()
        (folder / "small.yaml").write_text(YAML)
        done = server.run(folder, words)
        assert done["code"] == 0, (folder / "command.log").read_text()
        _whole[folder] = snapshot(folder)
        assert _whole[folder]
    return _whole[folder]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    (folder / "small.yaml").write_text(YAML)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def resize(folder: Path, size: str) -> None:
    """Change the size of a tmpfs."""
    subprocess.run(["mount", "-o", f"remount,rw,{size}", str(folder)], check=True)


@pytest.mark.parametrize("share", some(0.1, 0.6, 0.95))
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(name: str, share: float, attempt: Try, small_disk: Path, place: Path) -> None:
    whole = place / f"limits-{name}"
    used = 64 << 10
    if whole.exists():
        used = sum(-(-p.stat().st_size // 4096) * 4096 for p in whole.rglob("*") if p.is_file())
    resize(small_disk, f"size={max(2, round(share * used / 4096)) * 4}k")
    attempt(
        name,
        small_disk,
        expected=("No space left on device",),
        relieve=lambda: resize(small_disk, "size=64m"),
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_read_only_disk(name: str, attempt: Try, small_disk: Path) -> None:
    resize(small_disk, "ro")
    attempt(
        name,
        small_disk,
        expected=("Read-only file system",),
        relieve=lambda: resize(small_disk, "size=64m"),
        may_succeed=False,
    )


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "small.yaml").write_text(YAML)
    return folder


@pytest.mark.parametrize("size", some(20_000, 1_000))
@pytest.mark.parametrize("name", NAMES)
def test_a_limit_of_the_size_of_files(name: str, size: int, attempt: Try, tmp_path: Path) -> None:
    attempt(name, _folder(tmp_path), expected=("File too large",), limits={"FSIZE": size})


@pytest.mark.parametrize("files", some(8, 12, 20))
@pytest.mark.parametrize("name", NAMES)
def test_a_limit_of_open_files(name: str, files: int, attempt: Try, tmp_path: Path) -> None:
    attempt(name, _folder(tmp_path), expected=("Too many open files",), limits={"NOFILE": files})


# In the long run alone: the interpreter itself may fail in parsing with a SystemError.
@pytest.mark.skipif(not ALL, reason="make trust")
@pytest.mark.parametrize("megabytes", [1, 8, 40])
@pytest.mark.parametrize("name", ["convert", "train", "predict", "export"])
def test_too_little_memory(name: str, megabytes: int, attempt: Try, tmp_path: Path) -> None:
    attempt(
        name,
        _folder(tmp_path),
        expected=("memory", "cannot be loaded", "failed to map segment"),
        limits={"AS": megabytes << 20},
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_may_not_be_written(name: str, attempt: Try, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    folder.chmod(0o555)
    attempt(
        name,
        folder,
        expected=("Permission denied",),
        relieve=lambda: folder.chmod(0o755),
        may_succeed=False,
        rights=False,
    )


@pytest.mark.parametrize("name", ["train", "predict", "convert"])
def test_input_that_may_not_be_read(
    name: str, attempt: Try, server: Server, data: Path, tmp_path: Path, trained: Path
) -> None:
    changed = tmp_path / "data"
    shutil.copytree(data, changed)
    folder, log = _folder(tmp_path), tmp_path / "command.log"
    image = sorted((changed / "test/good").iterdir())[0]
    image.chmod(0)
    words = [w.replace("DATA", str(changed)).replace("RUN", str(trained))
             for w in COMMANDS[name][0]]  # fmt: skip
    found = server.run(folder, words, log=str(log), rights=False)
    assert found["code"] in (1, 2), log.read_text()
    assert "Traceback" not in log.read_text()
    assert f"{image}: " in log.read_text()


# In the long run alone: what other threads write meanwhile makes each attempt another one.
@pytest.mark.skipif(not ALL, reason="make trust")
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["convert", "train", "predict"])
def test_a_folder_that_vanishes(
    name: str, share: float, attempt: Try, server: Server, place: Path, data: Path,
    trained: Path, tmp_path: Path,
) -> None:  # fmt: skip
    words = [w.replace("DATA", str(data)).replace("RUN", str(trained)) for w in COMMANDS[name][0]]
    steps = server.run(_folder(tmp_path), words)["steps"]
    folder = tmp_path / "gone"
    folder.mkdir()
    attempt(
        name,
        folder,
        expected=("No such file or directory", "no such", "not there", "cannot be"),
        step=round(share * steps),
        remove=str(folder),
    )


@pytest.mark.parametrize("name", ["train", "predict"])
def test_a_home_on_a_full_disk(name: str, attempt: Try, small_disk: Path, tmp_path: Path) -> None:
    """Caches are a convenience: without them the outcome is the same, or one line."""
    attempt(
        name,
        _folder(tmp_path),
        expected=("No space left on device",),
        env={"TOOLKIT_HOME": str(small_disk), "TOOLKIT_ENGINE": "torch"},
    )


def test_no_disk_is_left_mounted(tmp_path: Path) -> None:
    mounts = Path("/proc/mounts").read_text()
    assert os.fspath(tmp_path.parent) not in mounts

"""Files appear complete or not at all, and errors name the right file."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit import files
from toolkit.errors import ToolkitError
from toolkit.files import (
    OutputError,
    atomic_folder,
    atomic_write,
    read_json,
    write_json,
    write_text,
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


@given(record=plain)
def test_json_reads_back(tmp_path_factory: pytest.TempPathFactory, record: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, record)
    assert read_json(path) == record


def test_equal_records_are_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "y": [2, "ä"]})
    write_json(tmp_path / "b", {"y": [2, "ä"], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes().endswith(b"\n")


def test_json_that_no_other_reader_takes_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a", {"loss": float("nan")})
    assert (tmp_path / "a").read_text() == "before"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"no"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ToolkitError, match="not valid JSON") as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "no.json", tmp_path):
        with pytest.raises(ToolkitError, match="cannot be read") as caught:
            read_json(path)
        assert str(path) in str(caught.value)


def test_a_file_replaces_the_old_one_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    write_text(path, "old ä")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text(encoding="utf-8") == "old ä"
        assert temporary.parent == path.parent  # else the rename would not be atomic
        assert temporary.suffix == ".txt"  # some writers choose the format by it
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_text(tmp_path / "whole", "x")
    with atomic_folder(tmp_path / "folder"):
        pass
    (tmp_path / "plain_folder").mkdir()

    def mode(name: str) -> int:
        return stat.S_IMODE((tmp_path / name).stat().st_mode)

    assert mode("whole") == mode("plain")
    assert mode("folder") == mode("plain_folder")


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/inside").write_text("x")
    for path in (tmp_path / "file/below", tmp_path / "folder"):
        with pytest.raises(OutputError, match="cannot be written") as caught:
            write_text(path, "text")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(OutputError), atomic_folder(tmp_path / "file/below"):
        pass
    assert names(tmp_path) == ["file", "folder"]


class SafetensorError(Exception):
    """Has the name, but not the base class, of an error of the file system."""


@pytest.mark.parametrize("make", [atomic_write, atomic_folder])
@pytest.mark.parametrize(
    ("error", "free"),
    [
        (OSError(errno.ENOSPC, "full"), 10**9),
        (OSError(errno.EDQUOT, "quota"), 10**9),
        # another library's temporary file, on the same disk
        (OSError(errno.ENOSPC, "full", "/elsewhere/x"), 10**9),
        # as NumPy, torch and safetensors report it
        (OSError("1000 requested and 12 written"), 0),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), 0),
        (SafetensorError("I/O error"), 0),
    ],
)
def test_a_full_disk_is_one_line_about_the_output(
    tmp_path: Path, make: Any, error: Exception, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with (
        pytest.raises(OutputError, match=r"out: cannot be written \(No space left") as caught,
        make(tmp_path / "out"),
    ):
        raise error
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), OSError("reset")])
def test_other_errors_pass_while_there_is_space(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)) as caught, atomic_write(tmp_path / "out"):
        raise error
    assert caught.value is error


def killed_while_writing(path: Path, *, make: str) -> None:
    """Start to write `path` in another process, and kill it there."""
    code = f"""
import os, signal
from pathlib import Path
from toolkit.files import atomic_folder, atomic_write
with {make}(Path({str(path)!r})) as temporary:
    if temporary.is_dir():
        (temporary / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture
def _first_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be one that has not written anything yet."""
    monkeypatch.setattr("toolkit.files._cleaned", set())


@pytest.mark.usefixtures("_first_write")
@pytest.mark.parametrize("make", ["atomic_write", "atomic_folder"])
def test_what_a_killed_process_left_is_removed(tmp_path: Path, make: str) -> None:
    path = tmp_path / "out.npy"
    killed_while_writing(path, make=make)
    assert len(names(tmp_path)) == 1, "or this test would prove nothing"
    with {"atomic_write": atomic_write, "atomic_folder": atomic_folder}[make](path):
        pass
    assert names(tmp_path) == ["out.npy"]


@pytest.mark.usefixtures("_first_write")
def test_what_a_process_killed_behind_its_last_step_left_is_removed(
    tmp_path: Path,
) -> None:
    code = f"""
import os, shutil, signal
from pathlib import Path
from toolkit.files import atomic_folder
shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with atomic_folder(Path({str(tmp_path / "out")!r})):
    pass
"""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2, "or this test would prove nothing"
    with pytest.raises(OutputError, match="already there"), atomic_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out"]


@pytest.mark.usefixtures("_first_write")
def test_what_others_are_writing_stays(tmp_path: Path) -> None:
    own = f"tmp-{files._HOST}-{os.getpid()}-00000000"
    kept = [
        f".a.tmp-{files._HOST}-1-00000000",  # a process that runs
        f".a.tmp-{'0' * 8}-{2**22 + 1}-00000000",  # of another host, on a shared disk
        ".a.txt.x8f3a2b1.txt",  # of another program
        ".git",
    ]
    for name in kept:
        (tmp_path / name).write_text("")
    (tmp_path / f".a.{own}").write_text("")  # an earlier process with the same number
    with atomic_write(tmp_path / "b") as writing:
        files._cleaned.clear()
        write_text(tmp_path / "c", "")
        assert writing.exists(), "another thread of this process is writing it"
    assert names(tmp_path) == sorted([*kept, "b", "c"])


@pytest.mark.usefixtures("_first_write")
def test_a_folder_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    old = tmp_path / f".out.tmp-{files._HOST}-{2**22 + 1}-00000000" / "old"
    old.mkdir(parents=True)
    (old / "precious").write_text("x")
    write_text(tmp_path / "a", "")
    assert names(tmp_path) == ["a", "out"]
    assert (tmp_path / "out/precious").read_text() == "x"


def test_the_longest_possible_name(tmp_path: Path) -> None:
    for name in ("x" * 255, "ä" * 127, "x." + "y" * 253):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


@pytest.mark.parametrize("make", [atomic_write, atomic_folder])
def test_what_fails_elsewhere_is_not_blamed_on_the_output(tmp_path: Path, make: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"input\.png"), make(tmp_path / "out"):
        (tmp_path / "input.png").read_bytes()
    # Network errors are OSErrors without a number.
    with pytest.raises(OSError, match=r"^reset$") as caught, make(tmp_path / "out"):
        raise ConnectionError("reset")
    assert not isinstance(caught.value, OutputError)
    assert names(tmp_path) == []


def test_a_folder_appears_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()
    assert names(path) == ["a"]
    assert names(path.parent) == ["out"]


def test_a_folder_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_text("1")
    with pytest.raises(OutputError, match="--overwrite"), atomic_folder(path):
        pytest.fail("must not begin")
    with atomic_folder(path, overwrite=True) as temporary:
        assert names(path) == ["old"]
        (temporary / "new").write_text("2")
    assert names(path) == ["new"]
    assert names(tmp_path) == ["out"]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_text("1")

    def write() -> None:
        with atomic_folder(path, overwrite=True) as temporary:
            (temporary / "new").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["out"]


def test_overwrite_never_takes_the_ground_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "project" / "inner"
    here.mkdir(parents=True)
    (here / "precious").write_text("x")
    monkeypatch.chdir(here)
    for path in (Path(), Path("../../project"), here, tmp_path):
        with (
            pytest.raises(OutputError, match="contains the working folder"),
            atomic_folder(path, overwrite=True),
        ):
            pytest.fail("must not begin")
    assert (here / "precious").is_file()


def test_overwrite_replaces_folders_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("file", "link", "dangling"):
        with (
            pytest.raises(OutputError, match="not a folder"),
            atomic_folder(tmp_path / name, overwrite=True),
        ):
            pytest.fail("must not begin")
    assert (tmp_path / "file").read_text() == "x"
    assert (tmp_path / "real").is_dir()


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with atomic_folder(Path("out")) as temporary:
        (temporary / "a").write_text("1")
    assert names(tmp_path / "out") == ["a"]

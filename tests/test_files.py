"""Files appear whole or not at all, and errors are blamed on the right file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        assert temporary.suffix == ".txt"  # some writers look at it
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


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("make", [atomic_write, atomic_folder])
def test_a_full_disk_is_blamed_on_the_output(tmp_path: Path, make: Any) -> None:
    with pytest.raises(OutputError, match=r"out.*No space left"), make(tmp_path / "out"):
        raise full_disk()
    assert names(tmp_path) == []


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


def test_a_folder_is_replaced_only_when_told(tmp_path: Path) -> None:
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
            pytest.raises(OutputError, match="working folder"),
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

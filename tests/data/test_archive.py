"""Unpacking: the asked folder and nothing else, and no way out of it."""

from __future__ import annotations

import contextlib
import io
import lzma
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolkit.data import archive
from toolkit.data.archive import unpack
from toolkit.errors import DataError

FILES = {
    "train/good/000.png": b"one",
    "test/good/000.png": b"two",
    "license.txt": b"terms",
}


def _tar(path: Path, members: dict[str, bytes], *, mode: str = "w:xz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


def _under(top: str, files: dict[str, bytes] = FILES) -> dict[str, bytes]:
    return {top + name: content for name, content in files.items()}


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "safe" / "into"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    "members",
    [
        # one category, as its authors pack it
        _under("bottle/"),
        # with ./ in front, as `tar .` packs it
        _under("./bottle/"),
        # all categories
        {**_under("cable/"), **_under("bottle/"), **_under("zipper/")},
        # all categories under one more folder
        {**_under("mvtec_anomaly_detection/cable/"), **_under("mvtec_anomaly_detection/bottle/")},
        # the folder twice, as some archivers nest it
        _under("bottle/bottle/"),
        # what macOS adds
        {
            **_under("bottle/"),
            "__MACOSX/bottle/train/good/._000.png": b"junk",
            "bottle/.DS_Store": b"junk",
            "bottle/train/good/._000.png": b"junk",
        },
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar.xz", "tar.gz", "tar"])
def test_takes_the_asked_folder_only(
    tmp_path: Path, into: Path, members: dict[str, bytes], kind: str
) -> None:
    path = tmp_path / f"archive.{kind}"
    if kind == "zip":
        _zip(path, members)
    else:
        _tar(path, members, mode={"tar.xz": "w:xz", "tar.gz": "w:gz", "tar": "w"}[kind])
    unpack(path, into, folder="bottle")
    assert _tree(into) == FILES


@pytest.mark.parametrize("make", [_tar, _zip])
@pytest.mark.parametrize(
    "name",
    [
        "/tmp/evil.png",
        "bottle/../../evil.png",
        "../evil.png",
        "..",
        "bottle\\..\\..\\evil.png",
        "C:/evil.png",
        "cable/../../evil.png",  # not the asked folder, but a hostile archive all the same
    ],
)
def test_refuses_paths_that_leave(tmp_path: Path, into: Path, make: object, name: str) -> None:
    path = make(tmp_path / "archive", {**_under("bottle/"), name: b"evil"})  # type: ignore[operator]
    with pytest.raises(DataError, match="would be written outside") as caught:
        unpack(path, into, folder="bottle")
    assert str(path) in str(caught.value)
    written = {p for p in tmp_path.rglob("*") if p.is_file()} - {path}
    assert all(p.is_relative_to(into) for p in written)
    assert not any(p.name.startswith("evil") for p in written)


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "../../.."),  # a folder link, through which a later member would write
        (tarfile.SYMTYPE, "train/good/000.png"),  # harmless, and still needless
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.CHRTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_refuses_links_and_devices_in_a_tar(
    tmp_path: Path, into: Path, kind: bytes, link: str
) -> None:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("bottle/x")
        info.type, info.linkname = kind, link
        tar.addfile(info)
        after = tarfile.TarInfo("bottle/x/evil.png")
        after.size = 4
        tar.addfile(after, io.BytesIO(b"evil"))
    with pytest.raises(DataError, match="link or a device"):
        unpack(path, into, folder="bottle")
    assert list(into.iterdir()) == []


def test_refuses_a_symlink_in_a_zip(tmp_path: Path, into: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as opened:
        info = zipfile.ZipInfo("bottle/x")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(info, "../../..")
        opened.writestr("bottle/x/evil.png", b"evil")
    with pytest.raises(DataError, match="link or a device"):
        unpack(path, into, folder="bottle")
    assert list(into.iterdir()) == []


@pytest.mark.parametrize("make", [_tar, _zip])
def test_wrong_category_names_what_is_there(tmp_path: Path, into: Path, make: object) -> None:
    path = make(tmp_path / "archive", _under("cable/"))  # type: ignore[operator]
    with pytest.raises(DataError, match="no folder bottle inside; it holds cable"):
        unpack(path, into, folder="bottle")


def test_a_file_twice_is_refused(tmp_path: Path, into: Path) -> None:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as tar:
        for content in (b"1", b"2"):
            info = tarfile.TarInfo("bottle/a.png")
            info.size = 1
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match="twice"):
        unpack(path, into, folder="bottle")


@pytest.mark.parametrize("make", [_tar, _zip])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.99])
def test_cut_off_archive(tmp_path: Path, into: Path, make: object, keep: float) -> None:
    noise = {f"train/good/{i:03d}.png": random.Random(i).randbytes(3000) for i in range(10)}
    path = make(tmp_path / "archive", _under("bottle/", noise))  # type: ignore[operator]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match="damaged, cut off, or no tar or zip") as caught:
        unpack(path, into, folder="bottle")
    assert "\n" not in str(caught.value)


def test_a_text_file_is_no_archive(tmp_path: Path, into: Path) -> None:
    (tmp_path / "page.html").write_text("<html>Not found</html>\n" * 100)
    with pytest.raises(DataError, match="no tar or zip"):
        unpack(tmp_path / "page.html", into, folder="bottle")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.parametrize("make", [_tar, _zip])
def test_damage_is_always_an_error_of_ours_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, make: object, data: st.DataObject
) -> None:
    room = tmp_path_factory.mktemp("room")
    into = room / "into"
    into.mkdir()
    path = make(room / "archive", _under("bottle/"))  # type: ignore[operator]
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(DataError):
        unpack(path, into, folder="bottle")
    assert {p.name for p in room.iterdir()} == {"archive", "into"}


def test_progress_ends_at_the_size_of_the_archive(tmp_path: Path, into: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    members = _under("bottle/", {f"{i}.png": random.Random(i).randbytes(9000) for i in range(20)})
    path = _tar(tmp_path / "archive", members)
    unpack(path, into, folder="bottle", progress=lambda done, total: seen.append((done, total)))
    assert len(seen) >= 20
    assert seen == sorted(seen)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


def test_lzma_magic_alone_is_damage(tmp_path: Path, into: Path) -> None:
    path = tmp_path / "archive.tar.xz"
    path.write_bytes(lzma.compress(b"not a tar" * 500))
    with pytest.raises(DataError, match="damaged"):
        unpack(path, into, folder="bottle")


@pytest.mark.parametrize("make", [_tar, _zip])
def test_refuses_what_unpacks_to_gigabytes(
    tmp_path: Path, into: Path, make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_MIN_LIMIT", 1 << 20)
    members = _under("bottle/", {f"{i}.png": bytes(3 << 19) for i in range(4)})
    path = make(tmp_path / "archive", members)  # type: ignore[operator]
    with pytest.raises(DataError, match="refused, it unpacks to more than 1 MB"):
        unpack(path, into, folder="bottle")
    assert sum(f.stat().st_size for f in into.rglob("*") if f.is_file()) <= 1 << 20
    if make is _zip:
        assert list(into.iterdir()) == []  # by the declared sizes


def test_other_folders_do_not_count(
    tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_MIN_LIMIT", 1 << 20)
    members = {**_under("cable/", {"0.png": bytes(1 << 22)}), **_under("bottle/")}
    unpack(_zip(tmp_path / "archive", members), into, folder="bottle")
    assert _tree(into) == FILES

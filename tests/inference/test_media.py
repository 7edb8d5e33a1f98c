"""Lists, archives, videos and cameras: every image once, and one line for what is broken."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from toolkit.errors import DataError
from toolkit.inference import media
from toolkit.inference.sources import image_files, iterate_source

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "deep/b.png", "deep/c.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), PICTURE[..., ::-1])
    (tmp_path / "in/notes.md").write_text("no image")
    return tmp_path / "in"


def names(source: object) -> list[str]:
    found = list(iterate_source(source))
    for one in found:
        np.testing.assert_array_equal(one.read(), PICTURE)
    return [one.name for one in found]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz"])
def test_archives_are_read_without_unpacking(suffix: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / f"images{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*.*")):
                archive.write(file, file.relative_to(folder))
    else:
        packing = {".tar": "w", ".tar.xz": "w:xz"}.get(suffix, "w:gz")
        with tarfile.open(path, packing) as archive:  # type: ignore[call-overload]
            for file in sorted(folder.rglob("*.*")):
                archive.add(file, str(file.relative_to(folder)))
    before = sorted(tmp_path.rglob("*"))
    assert names(path) == ["a.png", "deep/b.png", "deep/c.png"]
    assert sorted(tmp_path.rglob("*")) == before


def test_no_name_in_an_archive_leads_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../../evil.png", "/etc/evil.png", "..\\evil.png"):
            archive.write(folder / "a.png", name)
    assert names(path) == ["evil.png", "etc/evil.png", "evil.png"]


def test_a_damaged_archive_gives_what_lies_before_the_damage(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(folder / "a.png", "a.png")
        archive.add(folder / "deep/b.png", "b.png")
    path.write_bytes(path.read_bytes()[:9000])
    errors: list[DataError] = []
    assert [one.name for one in iterate_source(path, on_error=errors.append)] == ["a.png"]
    assert "images.tar: not a readable archive" in str(errors[0])
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"images\.tar: not a readable archive"):
        list(iterate_source(path))


def test_a_member_that_is_too_large_is_one_bad_image(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("bomb.png", bytes(10_000))
        archive.write(folder / "a.png", "a.png")
    monkeypatch.setenv("TOOLKIT_MAX_PIXELS", "500")
    first, _ = iterate_source(tmp_path / "images.zip")
    with pytest.raises(DataError, match=r"images\.zip/bomb\.png: file is too large"):
        first.read()


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_lists_name_files_from_their_folder_on(kind: str, folder: Path, tmp_path: Path) -> None:
    paths = ["in/a.png", str(folder / "deep/b.png")]
    path = tmp_path / f"list.{kind}"
    if kind == "txt":
        path.write_text("\n".join([paths[0], "", paths[1]]) + "\n")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"number": [1, 2], "image": paths}), path)
    assert names(path) == ["in/a.png", "/".join(Path(paths[1]).parts[1:])]


@pytest.mark.parametrize("content", [b"PAR1 no parquet", None])
def test_a_parquet_file_that_cannot_be_used(content: bytes | None, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "list.parquet"
    if content is None:
        parquet.write_table(pyarrow.table({"number": [1]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"list\.parquet: (no column path|not a readable Parquet)"):
        list(iterate_source(path))


def test_paths_from_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    reader, writer = os.pipe()
    os.write(writer, b"a.png\ndeep/b.png\n")
    os.close(writer)
    kept = os.dup(0)
    os.dup2(reader, 0)
    try:
        assert names("-") == ["a.png", "deep/b.png"]
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(reader)


def video(path: Path, frames: int = 20) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    noise = np.random.default_rng(0).integers(-9, 10, (48, 64, 3))
    for number in range(frames):
        writer.write(np.clip(10 * number + noise, 0, 255).astype(np.uint8))
    writer.release()
    return path


def test_every_frame_of_a_video(tmp_path: Path) -> None:
    found = list(iterate_source(video(tmp_path / "line.avi")))
    assert [one.name for one in found] == [f"line/{i:06d}.png" for i in range(20)]
    means = [one.read().mean() for one in found]
    np.testing.assert_allclose(means, [10 * i for i in range(20)], atol=3)


def test_a_video_that_is_cut_short(tmp_path: Path) -> None:
    path = video(tmp_path / "line.avi")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    errors: list[DataError] = []
    last = np.zeros((4, 4, 3), np.uint8)
    *found, other = iterate_source([path, last], on_error=errors.append)
    assert other.name == "image1"
    assert 3 < len(found) < 20
    assert len(errors) == 1
    assert f"line.avi: ends after {len(found)} of " in str(errors[0])
    path.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"line\.avi: not a readable video"):
        list(iterate_source(path))


def test_a_camera_that_is_unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:  # no camera is here
        left = 3

        def __init__(self, number: int) -> None:
            assert number == 7

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def read(self) -> tuple[bool, np.ndarray | None]:
            self.left -= 1
            return (True, PICTURE[..., ::-1]) if self.left >= 0 else (False, None)

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    errors: list[DataError] = []
    found = list(iterate_source("7", on_error=errors.append))
    assert [one.name for one in found] == [f"camera7/{i:06d}.png" for i in range(3)]
    assert str(errors[0]) == "camera 7: no more images after 3; is it plugged in?"


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(DataError, match="camera 97: cannot be opened"):
        list(iterate_source("97"))


def test_a_large_folder_is_not_listed_before_its_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        (tmp_path / f"{number:03d}.png").touch()
    monkeypatch.setattr("toolkit.inference.sources._BLOCK", 7)
    seen = []
    scandir = os.scandir

    class Counting:
        def __init__(self, path: Path) -> None:
            self.entries = scandir(path)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            self.entries.close()

        def __iter__(self) -> Counting:
            return self

        def __next__(self) -> os.DirEntry[str]:
            seen.append(1)
            return next(self.entries)

    monkeypatch.setattr(os, "scandir", Counting)
    files = image_files(tmp_path)
    next(files)
    assert len(seen) <= 8
    assert len(list(files)) == 49


@pytest.mark.parametrize("name", ["a.txt", "a.TAR.GZ", "a.mp4", "a.png"])
def test_kinds(name: str) -> None:
    wanted = {"a.txt": "list", "a.TAR.GZ": "archive", "a.mp4": "video", "a.png": "image"}
    assert media.kind_of(Path(name)) == wanted[name]

"""Bad input: named in one line, the rest converted; with `strict` the first one ends it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from formats.conftest import blank, write_png
from toolkit.data.types import Dataset
from toolkit.errors import DataError
from toolkit.files import OutputError
from toolkit.formats import pipeline, yolo
from toolkit.formats.convert import convert

MASK = "ground_truth/dent/000_mask.png"
IMAGE = "test/dent/000.png"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def twin(path: Path) -> None:
    path.with_suffix(".jpg").write_bytes(cv2.imencode(".jpg", blank())[1].tobytes())


def cut_photograph(root: Path) -> None:
    """A JPEG without its end, which is linked and never decoded."""
    (root / IMAGE).unlink()
    (root / IMAGE).with_suffix(".jpg").write_bytes(cv2.imencode(".jpg", blank())[1].tobytes()[:-2])


def link_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.png")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def corrupt_photograph(root: Path) -> None:
    """A JPEG with damage in the middle, which is linked."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    data = bytearray(cv2.imencode(".jpg", noise)[1].tobytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(range(200))
    (root / IMAGE).unlink()
    (root / IMAGE).with_suffix(".jpg").write_bytes(data)


CASES: list[tuple[str, Callable[[Path], object], str, str, int]] = [
    # what it is, how it comes about, the kind it is reported as, the file named, images left
    ("truncated mask", lambda r: cut(r / MASK), "unreadable", "000_mask.png", 9),
    ("truncated image", lambda r: cut(r / IMAGE), "unreadable", "000.png", 9),
    ("truncated JPEG", cut_photograph, "unreadable", "000.jpg", 9),
    ("mask that is text", lambda r: (r / MASK).write_text("mask"), "unreadable", MASK, 9),
    ("empty file", lambda r: (r / IMAGE).write_bytes(b""), "unreadable", IMAGE, 9),
    ("other size", lambda r: write_png(r / MASK, blank(30, 20) + 1), "wrong size", "30x20", 9),
    ("only zeros", lambda r: write_png(r / MASK, blank()), "empty mask", MASK, 9),
    ("only ones", lambda r: write_png(r / MASK, blank() + 255), "full mask", MASK, 9),
    ("image without mask", lambda r: (r / MASK).unlink(), "no mask", IMAGE, 9),
    ("mask without image", lambda r: (r / IMAGE).unlink(), "mask without image", MASK, 9),
    ("equal stems", lambda r: twin(r / IMAGE), "equal stems", "000.jpg and 000.png", 9),
    ("pipe as mask", lambda r: pipe(r / MASK), "unreadable", "not a regular file", 9),
    ("pipe as image", lambda r: pipe(r / IMAGE), "unreadable", "not a regular file", 9),
    ("endless device", lambda r: device(r / IMAGE), "unreadable", "not a regular file", 9),
    ("corrupt JPEG", corrupt_photograph, "unreadable", "000.jpg", 9),
    ("link to nowhere", lambda r: link_nowhere(r / MASK), "unreadable", MASK, 9),
]
PARAMETERS = [pytest.param(*case[1:], id=case[0]) for case in CASES]


@pytest.mark.parametrize(("spoil", "kind", "named", "left"), PARAMETERS)
def test_named_and_the_rest_converted(
    folder: Path,
    reread: Callable[[], Dataset],
    tmp_path: Path,
    spoil: Callable[[Path], object],
    kind: str,
    named: str,
    left: int,
) -> None:
    spoil(folder)
    report = convert(reread(), to="yolo", out=tmp_path / "out")
    (problem,) = report.problems
    assert problem.kind == kind
    assert named in problem.message
    assert "\n" not in problem.message
    assert ";" in problem.message  # followed by the fix
    assert report.n_images == left
    assert len(list((tmp_path / "out/labels").rglob("*.txt"))) == left
    assert len(list((tmp_path / "out/images").rglob("*.*g"))) == left


@pytest.mark.parametrize(("spoil", "kind", "named", "left"), PARAMETERS)
def test_strict_stops_and_leaves_nothing(
    folder: Path,
    reread: Callable[[], Dataset],
    tmp_path: Path,
    spoil: Callable[[Path], object],
    kind: str,
    named: str,
    left: int,
) -> None:
    spoil(folder)
    before = set(tmp_path.iterdir())
    with pytest.raises(DataError) as caught:
        convert(reread(), to="yolo", out=tmp_path / "out", strict=True)
    assert named in str(caught.value)
    assert set(tmp_path.iterdir()) == before


def test_all_of_them_at_once(
    folder: Path, reread: Callable[[], Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MIN_IMAGES_PER_WORKER", 1)
    cut(folder / MASK)
    write_png(folder / "ground_truth/dent/001_mask.png", blank())
    (folder / "ground_truth/scratch/000_mask.png").unlink()
    report = convert(reread(), to="coco", out=tmp_path / "out", workers=2)
    assert sorted(p.kind for p in report.problems) == ["empty mask", "no mask", "unreadable"]
    assert report.n_images == 7


def test_problem_is_told_again_by_the_second_run(
    folder: Path, reread: Callable[[], Dataset], tmp_path: Path
) -> None:
    cut(folder / MASK)
    first = convert(reread(), to="yolo", out=tmp_path / "out")
    second = convert(reread(), to="yolo", out=tmp_path / "out")
    assert second.up_to_date
    assert second.problems == first.problems


def test_full_disk(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def full(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        path.write_bytes(data)

    monkeypatch.setattr(yolo, "write_bytes", full)
    before = set(tmp_path.iterdir())
    with pytest.raises(OutputError, match="No space left"):
        convert(dataset, to="yolo", out=tmp_path / "out")
    assert calls == 5
    assert set(tmp_path.iterdir()) == before


def test_interrupted(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(dataset, to="yolo", out=tmp_path / "out", min_area=2)
    earlier = (tmp_path / "out/report.json").read_bytes()

    def interrupted(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(yolo, "write_bytes", interrupted)
    before = set(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        convert(dataset, to="yolo", out=tmp_path / "out", overwrite=True)
    # the earlier output stands as it was
    assert set(tmp_path.iterdir()) == before
    assert (tmp_path / "out/report.json").read_bytes() == earlier


@pytest.mark.parametrize("out", ["/proc/none/out", "file/out"])
def test_output_that_cannot_be_written(dataset: Dataset, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        convert(dataset, to="yolo", out=tmp_path / out)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_output(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        convert(dataset, to="yolo", out=tmp_path / "locked/out")


def test_existing_output_stays(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="--overwrite"):
        convert(dataset, to="yolo", out=tmp_path / "out")
    assert (tmp_path / "out/mine.txt").read_text() == "keep"


def test_a_mask_of_a_jpeg_kind_is_cut_at_127(
    folder: Path, reread: Callable[[], Dataset], tmp_path: Path
) -> None:
    (folder / MASK).unlink()
    blob = blank()
    blob[10:30, 10:40] = 255
    data = cv2.imencode(".jpg", blob, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    (folder / "ground_truth/dent/000_mask.JPG").write_bytes(data.tobytes())
    report = convert(reread(), to="yolo", out=tmp_path / "out")
    assert report.regions["dent"] == 2  # one blob each, no ringing around it
    assert np.isclose(
        [float(v) for v in (tmp_path / "out/labels/test/test__dent__000.txt").read_text().split()],
        [0, 25 / 60, 20 / 40, 30 / 60, 20 / 40],
        atol=1 / 40,
    ).all()


def test_a_file_that_must_not_be_read(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith(IMAGE))
    report = convert(dataset, to="yolo", out=tmp_path / "out")
    (problem,) = report.problems
    assert problem.kind == "unreadable"
    assert f"{IMAGE}: permission denied" in problem.message
    assert report.n_images == 9


@pytest.mark.parametrize("images", ["copy", "link"])
def test_full_disk_while_images_are_placed(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Any
) -> None:
    def full(source: object, target: object) -> None:  # the library blames the source
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    monkeypatch.setattr(os, "symlink", full)
    before = set(tmp_path.iterdir())
    with pytest.raises(OutputError, match=r"out: cannot be written \(No space left"):
        convert(dataset, to="yolo", out=tmp_path / "out", images=images)
    assert set(tmp_path.iterdir()) == before


KILLED = """
import os, signal, sys
from toolkit.data.layouts import load_dataset
from toolkit.formats import yolo
from toolkit.formats.convert import convert
yolo.write_bytes = lambda path, data: os.kill(os.getpid(), signal.SIGKILL)
convert(load_dataset(sys.argv[1]), to="yolo", out=sys.argv[2], overwrite=True)
"""


def test_leftovers_of_a_killed_conversion_are_removed(dataset: Dataset, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(dataset.root), str(tmp_path / "out")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".out.*")
    mine = tmp_path / ".out.mine"
    mine.mkdir()
    running = left.with_name(re.sub(r"-\d+-", f"-{os.getppid()}-", left.name))
    running.mkdir()
    convert(dataset, to="yolo", out=tmp_path / "out")
    assert not left.exists()
    assert mine.exists()
    assert running.exists()

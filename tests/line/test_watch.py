"""Watched folders: each image once, complete, in the right place, whatever happened before."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.line.conftest import eventually, png
from toolkit.errors import DataError
from toolkit.line.ledger import Ledger
from toolkit.line.station import Station
from toolkit.line.watch import FolderWatch, Sort

Make = Callable[..., Station]


@pytest.fixture
def folder(tmp_path: Path, level: float) -> Path:
    """Three images that have been there for a while."""
    folder = tmp_path / "camera"
    (folder / "shift1").mkdir(parents=True)
    for name, offset in (("good.png", 0.0), ("shift1/bad.png", 40.0), ("odd.png", 7.0)):
        (folder / name).write_bytes(png(level + offset))
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(png(level))
    return folder


def watcher(station: Station, folder: Path, **options: object) -> FolderWatch:
    return FolderWatch(station, folder, folder, settle=0.0, **options)  # type: ignore[arg-type]


def decisions(ledger: Ledger) -> dict[str, str]:
    return {row["image"]: row["decision"] for row in ledger.answers()}


WANTED = {"good.png": "OK", "shift1/bad.png": "NOK", "odd.png": "REVIEW"}
PLACES = ["ok/good.png", "nok/shift1/bad.png", "review/odd.png"]


@pytest.mark.parametrize("sort", ["move", "copy", "none"])
def test_each_image_is_answered_once_and_sorted(
    make_station: Make, folder: Path, sort: Sort
) -> None:
    station = make_station()
    watch = watcher(station, folder, sort=sort)
    watch.look()
    watch.look()
    assert decisions(station.ledger) == WANTED
    assert all((folder / place).is_file() is (sort != "none") for place in PLACES)
    assert all((folder / name).is_file() is (sort != "move") for name in WANTED)
    station.close()
    again = make_station()
    watcher(again, folder, sort=sort).look()
    assert again.ledger.count() == 3
    assert again.ledger.unmoved() == []


def test_a_touched_file_is_not_asked_again_but_a_changed_one(
    make_station: Make, folder: Path, level: float
) -> None:
    station = make_station()
    watch = watcher(station, folder, sort="none")
    watch.look()
    os.utime(folder / "good.png", (1, 1))
    watch.look()
    assert station.ledger.count() == 3
    (folder / "good.png").write_bytes(png(level + 50))
    watch.look()
    assert station.ledger.answers(last=1)[0]["decision"] == "NOK"


def test_the_same_picture_of_the_next_part_is_answered(
    make_station: Make, folder: Path, level: float
) -> None:
    station = make_station()
    watch = watcher(station, folder)
    for _ in range(3):
        (folder / "good.png").write_bytes(png(level))
        watch.look()
    assert len(list((folder / "ok").glob("good*.png"))) == 3
    assert station.ledger.count() == 5


def test_a_file_that_is_being_written_is_waited_for(
    make_station: Make, folder: Path, level: float
) -> None:
    station = make_station()
    watch = watcher(station, folder, patience=0.6)
    data = png(level)
    (folder / "slow.png").write_bytes(data[:100])
    watch.look()
    assert "slow.png" not in decisions(station.ledger)
    (folder / "slow.png").write_bytes(data)
    watch.look()
    assert decisions(station.ledger)["slow.png"] == "OK"
    (folder / "cut.png").write_bytes(data[:100])
    threading.Event().wait(0.7)
    watch.look()  # nobody writes it any more
    assert decisions(station.ledger)["cut.png"] == "NOK"
    assert (folder / "nok/cut.png").is_file()


@pytest.mark.parametrize("killed", ["before the move", "after the move", "while copying"])
def test_what_a_kill_left_open_is_finished(
    make_station: Make,
    folder: Path,
    killed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    station = make_station()
    watch = watcher(station, folder)

    def place(uid: str, source: Path, target: Path) -> bool:
        target.parent.mkdir(parents=True, exist_ok=True)
        if killed == "after the move":
            source.rename(target)
        if killed == "while copying":
            target.write_bytes(source.read_bytes())
        return True

    monkeypatch.setattr(watch, "_place", place)
    watch.look()
    assert len(station.ledger.unmoved()) == 3
    station.close()
    again = make_station()
    watcher(again, folder).look()
    assert decisions(again.ledger) == WANTED
    assert again.ledger.count() == 3
    assert all((folder / place).is_file() for place in PLACES)
    assert not any((folder / name).exists() for name in WANTED)


def test_a_place_that_cannot_be_written_is_said_and_tried_again(
    make_station: Make, folder: Path, messages: list[str]
) -> None:
    (folder / "ok").write_text("in the way")
    station = make_station()
    watch = watcher(station, folder)
    watch.look()
    watch.look()
    assert station.ledger.count() == 3
    assert sum("cannot be written" in line for line in messages) == 1
    (folder / "ok").unlink()
    watch.look()
    assert (folder / "ok/good.png").is_file()
    assert station.ledger.count() == 3


def test_a_ledger_that_cannot_be_written_loses_nothing(
    make_station: Make, folder: Path, messages: list[str]
) -> None:
    station = make_station()
    station.ledger._db.execute("PRAGMA query_only=1")
    watch = watcher(station, folder)
    watch.look()
    assert not station.alive
    assert "readonly" in messages[0]
    station.ledger._db.execute("PRAGMA query_only=0")
    watch.look()
    assert decisions(station.ledger) == WANTED
    assert station.alive


def test_images_that_come_later(make_station: Make, folder: Path, level: float) -> None:
    station = make_station()
    stop = threading.Event()
    thread = threading.Thread(target=watcher(station, folder).run, args=[stop])
    thread.start()
    eventually(lambda: station.ledger.count() == 3)
    for number in range(5):
        (folder / f"new{number}.png").write_bytes(png(level, seed=number))
    eventually(lambda: station.ledger.count() == 8)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(list((folder / "ok").glob("new*.png"))) == 5


def test_names_that_are_not_text_and_links(
    make_station: Make, folder: Path, level: float, tmp_path: Path
) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(png(level))
    (tmp_path / "outside.png").write_bytes(png(level))
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    station = make_station()
    watch = watcher(station, folder)
    watch.look()
    watch.look()
    assert decisions(station.ledger) == {**WANTED, "caf-xe9.png": "OK"}
    assert (tmp_path / "outside.png").is_file()


def test_a_folder_that_is_not_there(make_station: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        watcher(make_station(), tmp_path / "gone")

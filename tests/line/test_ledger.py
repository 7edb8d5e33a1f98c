"""The ledger: what is written is there, together with its deliveries, or refused in a line."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from toolkit.decisions.outcomes import Outcome
from toolkit.line.answers import Answer
from toolkit.line.ledger import STAYS, WAITING, Ledger, LedgerError

OK = Answer(Outcome.OK, 1.5, 4.0, 0.3, "", "m", 12.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def test_an_answer_and_its_deliveries(ledger: Ledger) -> None:
    event = ledger.add(OK, image="a.png", sha256="1", sinks=["one", "two"])
    ledger.add(Answer.failed("dark", model="m"), image="b.png", sha256="2", sinks=["one"])
    assert [e["image"] for _, e in ledger.pending("one")] == ["a.png", "b.png"]
    ((number, sent),) = ledger.pending("two")
    assert sent == event
    ledger.delivered([number])
    assert ledger.pending("two") == []
    assert ledger.answers(last=1)[0]["reason"] == "dark"
    stats = ledger.stats()
    assert (stats["answers"], stats["failed"], stats["waiting"]) == (2, 1, {"one": 2})
    assert ledger.scores("m") == [1.5]


def test_an_image_in_its_place_is_answered_once(ledger: Ledger) -> None:
    ledger.add(OK, image="a.png", sha256="1", moved=STAYS, sinks=["one"])
    with pytest.raises(LedgerError, match="UNIQUE"):
        ledger.add(OK, image="a.png", sha256="1", moved=STAYS, sinks=["one"])
    assert len(ledger.pending("one")) == 1  # the delivery was rolled back with it
    event = ledger.add(OK, image="b.png", sha256="1", moved=WAITING, destination="ok/b.png")
    assert [row["uid"] for row in ledger.unmoved()] == [event["id"]]
    ledger.set_moved([event["id"]])
    ledger.add(OK, image="b.png", sha256="1", moved=WAITING)  # a new part that looks the same
    assert ledger.count() == 3


def test_one_process_writes_and_others_read(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="another process writes it"):
        Ledger(ledger.path)
    ledger.add(OK, image="a.png", sha256="1")
    assert Ledger(ledger.path, read_only=True).count() == 1
    Ledger(ledger.path, exclusive=False).add_feedback(
        who="me", sha256="1", image="a.png", truth="nok", decision="OK", model="m"
    )
    assert ledger.overruled() == {"feedback": 1, "overruled": 1}
    ledger.close()
    Ledger(ledger.path).close()


def test_other_files_are_refused(tmp_path: Path, ledger: Ledger) -> None:
    ledger.close()
    newer = tmp_path / "newer.sqlite"
    shutil.copy(ledger.path, newer)
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version=7")
    other, text = tmp_path / "other.sqlite", tmp_path / "text.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE a (b)")
    text.write_text("no database " * 100)
    for path, message in (
        (newer, "of schema 7, this version reads schema 1"),
        (other, "no ledger"),
        (text, "not a database"),
    ):
        with pytest.raises(LedgerError, match=message) as found:
            Ledger(path)
        assert str(path) in str(found.value)
    with pytest.raises(LedgerError, match="no ledger there"):
        Ledger(tmp_path / "none.sqlite", read_only=True)


def test_a_full_disk_is_said(ledger: Ledger) -> None:
    ledger._db.execute("PRAGMA max_page_count=20")

    def fill() -> None:
        for number in range(1000):
            ledger.add(OK, image="a" * 500, sha256=str(number), sinks=["one"])

    with pytest.raises(LedgerError, match="full; free some space"):
        fill()
    before = ledger.count()
    ledger._db.execute("PRAGMA max_page_count=100000")
    ledger.add(OK, image="a.png", sha256="x")
    assert ledger.count() == before + 1

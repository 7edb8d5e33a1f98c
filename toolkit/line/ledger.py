"""The ledger: every answer, what is still to be delivered, and all feedback, in one SQLite file.

An answer and its deliveries are written in one transaction (write-ahead log, synchronised to the
disk), so that whatever ends the process, both are there or neither is.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from toolkit.errors import ToolkitError, printable
from toolkit.line.answers import Answer

SCHEMA = 1
WAITING, MOVED, STAYS = 0, 1, 2
_APPLICATION = 0x746F6F6C
_TABLES = """
CREATE TABLE answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL UNIQUE, time REAL NOT NULL,
    image TEXT NOT NULL, sha256 TEXT NOT NULL, stamp TEXT NOT NULL, score REAL, threshold REAL,
    p_value REAL, decision TEXT NOT NULL, reason TEXT NOT NULL, model TEXT NOT NULL,
    latency_ms REAL NOT NULL, destination TEXT NOT NULL, moved INTEGER NOT NULL);
-- An image that still lies where it was answered is answered once.
CREATE UNIQUE INDEX in_place ON answers (image, sha256) WHERE moved != 1;
CREATE INDEX by_model ON answers (model, id);
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sink TEXT NOT NULL, event TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0);
CREATE INDEX by_sink ON outbox (sink, id);
CREATE TABLE feedback (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, who TEXT NOT NULL,
    sha256 TEXT NOT NULL, image TEXT NOT NULL, truth TEXT NOT NULL, decision TEXT NOT NULL,
    model TEXT NOT NULL, outcome TEXT NOT NULL DEFAULT '', new_model TEXT NOT NULL DEFAULT '');
CREATE TABLE differences (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, live TEXT NOT NULL,
    shadow TEXT NOT NULL);
"""


class LedgerError(ToolkitError):
    """The ledger cannot be read or written, or is of another schema."""


class Ledger:
    """The ledger of one line. One process at a time writes; others may read.

    Example:
        >>> import tempfile
        >>> ledger = Ledger(Path(tempfile.mkdtemp()) / "ledger.sqlite")
        >>> event = ledger.add(Answer.failed("no light", model="m"), image="1.png", sha256="0")
        >>> ledger.count(), event["decision"]
        (1, 'NOK')

    Args:
        path: the file; made if missing.
        read_only: open an existing one for reading.
        exclusive: whether no other process may write; not for a few rows of feedback.

    Raises:
        LedgerError: no ledger, one of another schema, or one that another process writes.
    """

    def __init__(self, path: Path, *, read_only: bool = False, exclusive: bool = True) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._process_lock: FileLock | None = None
        if read_only:
            if not path.is_file():
                raise LedgerError(f"{path}: no ledger there; toolkit watch and serve write one")
        else:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LedgerError(f"{path}: cannot be written ({error.strerror})") from error
            if exclusive:
                self._process_lock = self._acquire()
        try:
            with self._errors():
                self._db = self._connect(read_only)
        except LedgerError:
            self._release()
            raise

    def _acquire(self) -> FileLock:
        lock = FileLock(f"{self.path}.lock", timeout=0)
        try:
            lock.acquire()
        except (Timeout, OSError) as error:
            raise LedgerError(
                f"{self.path}: another process writes it, or it cannot be locked; stop that one, "
                "or choose another --state"
            ) from error
        return lock

    def _connect(self, read_only: bool) -> sqlite3.Connection:
        mode = "ro" if read_only else "rwc"
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA busy_timeout=5000")
        application, version, tables = (
            db.execute(query).fetchone()[0]
            for query in (
                "PRAGMA application_id", "PRAGMA user_version",
                "SELECT COUNT(*) FROM sqlite_master",
            )
        )  # fmt: skip
        if not tables and not read_only:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(
                f"BEGIN;{_TABLES}PRAGMA application_id={_APPLICATION};"
                f"PRAGMA user_version={SCHEMA};COMMIT;"
            )
        elif application != _APPLICATION or version != SCHEMA:
            db.close()
            kind = f"of schema {version}" if application == _APPLICATION else "no ledger"
            raise LedgerError(
                f"{self.path}: {kind}, this version reads schema {SCHEMA}; choose another --state"
            )
        if not read_only:
            db.execute("PRAGMA synchronous=FULL")
        return db

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            full = "full" in str(error)
            fix = "free some space" if full else "check the file"
            raise LedgerError(f"{self.path}: {error}; {fix}") from error
        except (TypeError, ValueError, OverflowError, OSError) as error:  # values of a damaged file
            raise LedgerError(
                f"{self.path}: damaged ({printable(error)[:120]}); check the file"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock, self._errors():
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
            self._release()

    def _release(self) -> None:
        if self._process_lock is not None:
            self._process_lock.release()

    def add(
        self,
        answer: Answer,
        *,
        image: str,
        sha256: str,
        sinks: Sequence[str] = (),
        stamp: str = "",
        destination: str = "",
        moved: int = MOVED,
    ) -> dict[str, Any]:
        """Write an answer together with its deliveries; return its event.

        Args:
            answer: the answer.
            image: name or path of the image.
            sha256: of the image's bytes.
            sinks: names of the sinks that it is delivered to.
            stamp: size and time of the file, by which an unchanged file is known.
            destination: where the file is to be moved or copied to.
            moved: `WAITING` for that, `MOVED`, or `STAYS` in its place (copied or not).

        Raises:
            LedgerError: it cannot be written, or the image is answered already.
        """
        now = time.time()
        event = {
            "event": "answer",
            "id": uuid.uuid4().hex,
            "time": _iso(now),
            "image": printable(image),
            "sha256": sha256,
            **answer.to_dict(),
        }
        with self._transaction() as db:
            db.execute(
                "INSERT INTO answers (uid, time, image, sha256, stamp, score, threshold, p_value, "
                "decision, reason, model, latency_ms, destination, moved) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (event["id"], now, _storable(image), sha256, stamp, answer.score, answer.threshold,
                 answer.p_value, answer.decision.value, answer.reason, answer.model,
                 answer.latency_ms, _storable(destination), moved),
            )  # fmt: skip
            self._post(db, event, sinks)
        return event

    def post(self, event: Mapping[str, Any], sinks: Sequence[str]) -> None:
        """Queue an event that is no answer, such as an alarm, for delivery."""
        now = time.time()
        whole = {"id": uuid.uuid4().hex, "time": _iso(now), **event}
        with self._transaction() as db:
            self._post(db, whole, sinks)

    def _post(self, db: sqlite3.Connection, event: Mapping[str, Any], sinks: Sequence[str]) -> None:
        text = json.dumps(event, sort_keys=True)
        db.executemany(
            "INSERT INTO outbox (sink, event) VALUES (?, ?)", [(sink, text) for sink in sinks]
        )

    def pending(self, sink: str, limit: int = 100) -> list[tuple[int, dict[str, Any]]]:
        """Return numbers and events that a sink has not got yet, oldest first."""
        query = "SELECT id, event FROM outbox WHERE sink = ? ORDER BY id LIMIT ?"
        rows = self._rows(query, sink, limit)
        with self._errors():
            return [(row["id"], json.loads(row["event"])) for row in rows]

    def delivered(self, numbers: Sequence[int]) -> None:
        """Forget deliveries that have arrived."""
        with self._transaction() as db:
            db.executemany("DELETE FROM outbox WHERE id = ?", [(n,) for n in numbers])

    def failed(self, number: int) -> None:
        """Count a delivery that did not arrive."""
        with self._transaction() as db:
            db.execute("UPDATE outbox SET attempts = attempts + 1 WHERE id = ?", (number,))

    def unmoved(self) -> list[sqlite3.Row]:
        """Return the answers whose files are still to be moved or copied."""
        return self._rows("SELECT * FROM answers WHERE moved = 0 ORDER BY id")

    def set_moved(self, uids: Sequence[str], moved: int = MOVED) -> None:
        """Record that files lie at their destinations."""
        if uids:
            with self._transaction() as db:
                db.executemany(
                    "UPDATE answers SET moved = ? WHERE uid = ?", [(moved, uid) for uid in uids]
                )

    def in_place(self) -> Iterator[tuple[str, str, str]]:
        """Yield image, SHA-256 and stamp of all answers whose files are where they were."""
        for row in self._rows("SELECT image, sha256, stamp FROM answers WHERE moved != 1"):
            yield row["image"], row["sha256"], row["stamp"]

    def scores(self, model: str) -> list[float]:
        """Return the latest scores that a model has given, 20,000 at most, oldest first."""
        query = (
            "SELECT score FROM answers WHERE model = ? AND score IS NOT NULL ORDER BY id DESC "
            "LIMIT 20000"
        )
        return [row["score"] for row in reversed(self._rows(query, model))]

    def count(self) -> int:
        """Return the number of answers."""
        return int(self._rows("SELECT COUNT(*) FROM answers")[0][0])

    def answers(self, *, last: int | None = None) -> list[dict[str, Any]]:
        """Return answers as JSON values, oldest first; the last ones only, if wanted."""
        query = "SELECT * FROM answers ORDER BY id DESC" + ("" if last is None else " LIMIT ?")
        rows = self._rows(query, *([] if last is None else [last]))
        hidden = ("id", "stamp", "moved")
        with self._errors():
            return [
                {k: row[k] for k in row.keys() if k not in hidden} | {"time": _iso(row["time"])}  # noqa: SIM118
                for row in reversed(rows)
            ]

    def find(self, uid: str) -> dict[str, Any] | None:
        """Return one answer by its id; None if there is none."""
        rows = self._rows("SELECT * FROM answers WHERE uid = ?", uid)
        return dict(rows[0]) if rows else None

    def last_of(self, sha256: str) -> dict[str, Any] | None:
        """Return the latest answer to an image by its content; None if there is none."""
        query = "SELECT * FROM answers WHERE sha256 = ? ORDER BY id DESC LIMIT 1"
        rows = self._rows(query, sha256)
        return dict(rows[0]) if rows else None

    def add_feedback(self, **values: str) -> int:
        """Write who labelled which image, and how; return its number.

        Args:
            values: `who`, `sha256`, `image`, `truth`, `decision` and `model`.
        """
        columns = ", ".join(values)
        marks = ", ".join("?" * len(values))
        with self._transaction() as db:
            cursor = db.execute(
                f"INSERT INTO feedback (time, {columns}) VALUES (?, {marks})",
                (time.time(), *map(_storable, values.values())),
            )
            return int(cursor.lastrowid or 0)

    def conclude_feedback(self, numbers: Sequence[int], outcome: str, new_model: str = "") -> None:
        """Record what became of feedback, and the model that was made of it."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE feedback SET outcome = ?, new_model = ? WHERE id = ?",
                [(outcome, new_model, number) for number in numbers],
            )

    def feedback(self) -> list[dict[str, Any]]:
        """Return all feedback, oldest first."""
        rows = self._rows("SELECT * FROM feedback ORDER BY id")
        with self._errors():
            return [dict(row) | {"time": _iso(row["time"])} for row in rows]

    def add_difference(self, live: Answer, shadow: Answer) -> None:
        """Write where a shadow model decides otherwise."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO differences (time, live, shadow) VALUES (?, ?, ?)",
                (time.time(), json.dumps(live.to_dict()), json.dumps(shadow.to_dict())),
            )

    def differences(self) -> list[dict[str, Any]]:
        """Return all differences between a live and a shadow model, oldest first."""
        rows = self._rows("SELECT * FROM differences ORDER BY id")
        with self._errors():
            return [
                {
                    "time": _iso(row["time"]),
                    "live": json.loads(row["live"]),
                    "shadow": json.loads(row["shadow"]),
                }
                for row in rows
            ]

    def stats(self) -> dict[str, Any]:
        """Return counts: answers by decision and model, waiting deliveries, overruled answers."""
        decisions = self._rows(
            "SELECT model, decision, COUNT(*) AS n, AVG(latency_ms) AS ms, MIN(time) AS first, "
            "MAX(time) AS last FROM answers GROUP BY model, decision ORDER BY MIN(id)"
        )
        failed = self._rows("SELECT COUNT(*) FROM answers WHERE reason != ''")[0][0]
        waiting = self._rows("SELECT sink, COUNT(*) AS n FROM outbox GROUP BY sink ORDER BY sink")
        with self._errors():
            return {
                "answers": sum(row["n"] for row in decisions),
                "failed": failed,
                "models": [
                    {"model": row["model"], "decision": row["decision"], "count": row["n"],
                     "mean_latency_ms": round(row["ms"], 2), "first": _iso(row["first"]),
                     "last": _iso(row["last"])}
                    for row in decisions
                ],
                "waiting": {row["sink"]: row["n"] for row in waiting},
                **self.overruled(),
            }  # fmt: skip

    def overruled(self) -> dict[str, int]:
        """Return the number of images with feedback, and of those that were overruled."""
        row = self._rows(
            "SELECT COUNT(DISTINCT sha256) AS n, COUNT(DISTINCT CASE WHEN (truth = 'ok') != "
            "(decision = 'OK') THEN sha256 END) AS wrong FROM feedback"
        )[0]
        return {"feedback": row["n"], "overruled": row["wrong"]}


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds)) + f"{seconds % 1:.3f}"[1:]


def _storable(text: str) -> str:
    """Return a name that SQLite can hold: bytes that are not UTF-8 as escapes."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character of UTF-16, which is no byte of a file's name
        return text.encode("utf-8", "backslashreplace").decode("utf-8")

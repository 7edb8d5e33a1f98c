"""Watch a folder: each image is answered exactly once, whenever the process is killed.

The answer is committed to the ledger before the file is moved. At the start, moves that are still
open are made; a file whose answer is in the ledger and that has not been moved is not asked again.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeAlias

from toolkit.data.decoding import read_bytes
from toolkit.data.images import is_image_file
from toolkit.data.types import file_sha256
from toolkit.errors import DataError, MissingExtraError, printable
from toolkit.files import atomic_write
from toolkit.line.answers import Answer
from toolkit.line.ledger import MOVED, STAYS, WAITING, LedgerError
from toolkit.line.station import Station

Sort: TypeAlias = Literal["move", "copy", "none"]
DECISIONS = ("ok", "nok", "review")
_RESCAN = 10.0
_LOOK_MS = 200


@dataclass(frozen=True)
class _Arrived:
    path: Path
    image: str
    stamp: str
    mtime: float
    data: bytes
    digest: str
    future: Future[Answer]


class FolderWatch:
    """Answers the images of a folder and those that come.

    Args:
        station: what answers and records.
        folder: searched with its subfolders; hidden files and symbolic links are passed over.
        out: gets the folders ok/, nok/ and review/, with the subfolders of the source.
        sort: `move` or `copy` the files there, or `none`.
        settle: seconds for which a file must not have changed.
        patience: seconds after its last change for which a damaged file may still be being written.
    """

    def __init__(
        self,
        station: Station,
        folder: Path,
        out: Path,
        *,
        sort: Sort = "move",
        settle: float = 0.5,
        patience: float = 5.0,
    ) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; make it, or name a camera")
        self._station, self._ledger = station, station.ledger
        self.folder, self.out, self._sort = folder, out, sort
        self._settle, self._patience = settle, patience
        self._skipped = {(out / name).absolute() for name in DECISIONS}
        self._seen: dict[Path, tuple[str, float]] = {}
        self._stamps: dict[str, str] = {}
        self._answered: set[tuple[str, str]] = set()
        self._reported: set[str] = set()
        self._moved: list[str] = []
        self._open_moves = True
        for image, digest, stamp in self._ledger.in_place():
            self._stamps[image] = stamp
            self._answered.add((image, digest))

    def run(self, stop: threading.Event) -> None:
        """Answer images until `stop` is set.

        Raises:
            MissingExtraError: watchfiles is not installed.
        """
        while not stop.is_set():
            try:
                self._run(stop)
            except OSError as error:
                reason = f"{self.folder}: {error.strerror or error}; waiting for it"
                self._station.fail(reason)
                stop.wait(2.0)

    def _run(self, stop: threading.Event) -> None:
        try:
            from watchfiles import watch
        except ImportError as error:
            raise MissingExtraError("watchfiles", extra="line", purpose="watch folders") from error

        changes = watch(
            self.folder,
            watch_filter=lambda _, path: self._is_ours(Path(path)),
            stop_event=stop,
            rust_timeout=_LOOK_MS,
            debounce=_LOOK_MS,
            step=20,
            yield_on_timeout=True,
            raise_interrupt=False,
        )
        looked = -_RESCAN  # at once: what lies there has come before the watch began
        for found in changes:
            now = time.monotonic()
            if found or self._seen or self._open_moves or now - looked > _RESCAN:
                looked = now
                self.look(stop)
            if not self.folder.is_dir():
                raise FileNotFoundError(2, "no such folder")

    def look(self, stop: threading.Event | None = None) -> None:
        """Answer all images that lie in the folder and are complete."""
        self._finish_moves()
        waiting: deque[_Arrived] = deque()
        depth = 2 * self._station.worker.live.model.batch_size + 2
        try:
            for path, stat in self._complete():
                if stop is not None and stop.is_set():
                    break
                arrived = self._submit(path, stat)
                if arrived is not None:
                    waiting.append(arrived)
                if len(waiting) > depth:
                    self._finish(waiting.popleft())
            while waiting:
                self._finish(waiting.popleft())
        except LedgerError:
            time.sleep(1.0)  # reported by the station; the images stay, and are answered later
        self._note_moved()

    def _is_ours(self, path: Path) -> bool:
        inside = path.absolute()
        if any(skipped in (inside, *inside.parents) for skipped in self._skipped):
            return False
        return is_image_file(path) and not path.name.startswith(".")

    def _files(self) -> Iterator[os.DirEntry[str]]:
        folders = [self.folder]
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if Path(entry.path).absolute() not in self._skipped:
                            folders.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False) and is_image_file(Path(entry.name)):
                        yield entry

    def _complete(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield the new files that are not being written any more."""
        seen, self._seen = self._seen, {}
        for entry in list(self._files()):
            path = Path(entry.path)
            try:
                stat = path.lstat()
            except FileNotFoundError:
                continue
            image, stamp = self._image(path), _stamp(stat)
            if self._stamps.get(image) == stamp:
                continue
            if not _is_text(image):
                self._rename(path)
                continue
            now = time.monotonic()
            before, since = seen.get(path, ("", now))
            since = since if before == stamp else now
            if now - since >= self._settle or time.time() - stat.st_mtime >= self._settle:
                yield path, stat
            else:
                self._seen[path] = (stamp, since)

    def _rename(self, path: Path) -> None:
        """Give a file a name that can be written down."""
        fresh = path.with_name(printable(path.name).replace("\\", "-"))
        if self._sort != "move" or fresh.exists():
            self._report_once(f"{printable(path)}: passed over, its name is not UTF-8; rename it")
            return
        path.rename(fresh)
        self._seen[fresh] = ("", time.monotonic())

    def _image(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _submit(self, path: Path, stat: os.stat_result) -> _Arrived | None:
        try:
            data = read_bytes(path)
        except DataError as error:
            if not path.exists():
                return None
            self._report_once(str(error))
            data = b""  # NOK: it is there and cannot be read
        digest, image, stamp = sha256(data).hexdigest(), self._image(path), _stamp(stat)
        if (image, digest) in self._answered:
            self._stamps[image] = stamp  # touched, not changed
            return None
        future = self._station.worker.submit(data, path.name, wait=True)
        return _Arrived(path, image, stamp, stat.st_mtime, data, digest, future)

    def _finish(self, arrived: _Arrived) -> None:
        """Record an answer and sort the file, unless the file was still being written."""
        answer = self._station.wait(arrived.future)
        path = arrived.path
        try:
            unchanged = _stamp(path.lstat()) == arrived.stamp
        except FileNotFoundError:
            unchanged = False
        if not unchanged:
            self._seen[path] = ("", time.monotonic())
            return
        young = time.time() - arrived.mtime < self._patience
        if young and answer.reason.startswith("unreadable"):
            self._seen[path] = (arrived.stamp, time.monotonic())
            return
        destination = ""
        if self._sort != "none":
            destination = self._free(answer.decision.value.lower(), arrived)
        event = self._station.record(
            answer,
            image=arrived.image,
            data=arrived.data,
            sha256=arrived.digest,
            suffix=path.suffix.lower(),
            stamp=arrived.stamp,
            destination=destination,
            moved=WAITING if destination else STAYS,
        )
        if self._sort != "move":
            self._stamps[arrived.image] = arrived.stamp
            self._answered.add((arrived.image, arrived.digest))
        if destination:
            self._place(event["id"], path, self.out / destination)

    def _free(self, decision: str, arrived: _Arrived) -> str:
        place = Path(decision) / arrived.image
        names = [place.name, f"{place.stem}-{arrived.digest[:12]}{place.suffix}"]
        number = 2
        while (self.out / place.with_name(names[0])).exists():
            names.pop(0)
            if not names:
                names = [f"{place.stem}-{arrived.digest[:12]}-{number}{place.suffix}"]
                number += 1
        return place.with_name(names[0]).as_posix()

    def _place(self, uid: str, source: Path, target: Path) -> bool:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if self._sort == "move":
                _move(source, target)
                self._moved.append(uid)
                if len(self._moved) >= 20:
                    self._note_moved()
            else:
                _copy(source, target)
                self._ledger.set_moved([uid], STAYS)
        except OSError as error:
            if not source.exists():
                self._report_once(f"{source}: was taken away before it could be sorted")
                self._moved.append(uid)
                return True
            self._report_once(f"{target}: cannot be written ({error.strerror}); tried again")
            self._open_moves = True
            image, stamp = self._image(source), _stamp(source.lstat())
            self._stamps[image] = stamp
            return False
        return True

    def _note_moved(self) -> None:
        moved, self._moved = self._moved, []
        try:
            self._ledger.set_moved(moved)
        except LedgerError as error:
            self._moved = moved + self._moved
            self._station.fail(str(error))

    def _finish_moves(self) -> None:
        """Make the moves that were open when the process ended, or that failed."""
        if not self._open_moves:
            return
        self._note_moved()
        self._open_moves = False
        for row in self._ledger.unmoved():
            source, target = self.folder / row["image"], self.out / row["destination"]
            mine = source.is_file() and _stamp(source.lstat()) == row["stamp"]
            there = target.is_file() and file_sha256(target) == row["sha256"]
            done = True
            if not there and mine:
                done = self._place(row["uid"], source, target)
            elif self._sort == "move" and mine:
                source.unlink()  # copied to another file system, and killed before this
            elif not there:
                self._report_once(f"{source}: was taken away before it could be sorted")
            if done:
                self._ledger.set_moved([row["uid"]], MOVED if self._sort == "move" else STAYS)
                if self._sort == "move":
                    self._stamps.pop(row["image"], None)
                    self._answered.discard((row["image"], row["sha256"]))

    def _report_once(self, message: str) -> None:
        if message not in self._reported:
            self._reported.add(message)
            self._station.say(message)


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != 18:  # EXDEV: on another file system
            raise
        _copy(source, target)
        source.unlink()


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())

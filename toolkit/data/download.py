"""Download a public data set, or take its archive: accept the licence, verify, unpack."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from toolkit.data.archive import Progress, unpack
from toolkit.data.dataset_cards import ArchiveSource, Card, load_card, mismatch
from toolkit.data.types import file_sha256
from toolkit.errors import DataError

if TYPE_CHECKING:
    import requests

_CHUNK_BYTES = 1 << 14  # a cut connection loses at most one chunk
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 60.0
_ATTEMPTS = 5


def download(
    category: str,
    *,
    target: Path,
    accept_licence: bool,
    archive: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Put a data set with a data card into `target`.

    The folder appears complete and verified, or not at all. An interrupted download leaves a
    `.part` file beside `target`, and the next call resumes it. A `target` that already holds the
    data set is left as it is.

    Args:
        category: name of a data card, for example `bottle`.
        target: folder of this one data set (`train/good` and so on go right into it).
        accept_licence: whether the user has accepted the licence that the card names.
        archive: take this tar or zip instead of downloading. It may hold other categories too.
        progress: called with (bytes done, bytes in all or None) of the download, or of the local
            archive while it is unpacked.

    Returns:
        `target`.

    Raises:
        DataError: unknown category, licence not accepted, host not reachable, wrong or damaged
            archive, disk full, or something else lies in `target`.
    """
    card = load_card(category)
    if card.archive is None and archive is None:
        raise DataError(f"{category}: is generated, not downloaded: {card.source}")
    if card.licence is not None and not accept_licence:
        raise DataError(
            f"{category}: its licence {card.licence} ({card.licence_url}) is not accepted yet; "
            "read it and add --accept-licence"
        )
    try:
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            _check_existing(target, card)
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        if archive is not None:
            if not archive.is_file():
                raise DataError(f"{archive}: no such file; give a tar or zip with --archive FILE")
            _install(archive, target, card, progress)
        elif card.archive is not None:
            part = target.parent / f"{target.name}.archive.part"
            fetch(card.archive.url, part, progress=progress)
            _install_download(part, target, card, card.archive)
    except OSError as error:
        raise DataError(
            f"{error.filename or target}: {error.strerror or error}; "
            "make room or choose another folder, then run the command again"
        ) from error
    return target


def fetch(url: str, part: Path, *, progress: Progress | None = None) -> None:
    """Download `url` to `part`, resuming an earlier attempt.

    A file `<part>.json` beside it records the URL and version of the file. Where the server has
    another version by now, or does not resume, the download starts again.

    Raises:
        DataError: not reachable, refused, or cut off too often; `part` is kept.
        OSError: the disk is full or not writable; `part` is kept.
    """
    import requests

    host = urlsplit(url).hostname or url
    alternative = f"or get {url} with a browser and add --archive FILE"
    failure: Exception | None = None
    for _ in range(_ATTEMPTS):
        before = _size(part)
        try:
            if _transfer(url, part, progress):
                return
            continue
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            _CutOffError,
        ) as error:
            failure = error
        except requests.RequestException as error:
            raise DataError(f"{host}: {str(error)[:80]}; try again later, {alternative}") from error
        if _size(part) <= before:
            break
    if _size(part):
        raise DataError(
            f"{host}: cut off after {_size(part)} bytes; run the command again to resume, "
            f"{alternative}"
        ) from failure
    raise DataError(f"{host}: not reachable; check the network, {alternative}") from failure


class _CutOffError(Exception):
    """The server closed the connection before the announced end."""


def _transfer(url: str, part: Path, progress: Progress | None) -> bool:
    """Send one request and write its content; False means: start again."""
    import requests

    record = _read_record(part, url)
    have = _size(part) if record else 0
    if record and record["total"] is not None and record["total"] == have:
        return True
    headers = {"Accept-Encoding": "identity"}  # offsets are those of the file itself
    if have:
        headers["Range"] = f"bytes={have}-"
        if record["version"]:
            headers["If-Range"] = record["version"]
    timeout = (_CONNECT_SECONDS, _READ_SECONDS)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if have and not _continues(response, have, record["total"]):
            if response.status_code in (206, 416):  # about another version of the file
                discard(part)
                return False
            have = 0
        response.raise_for_status()
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise requests.RequestException("answered with a web page instead of an archive")
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        if not have:
            part.unlink(missing_ok=True)
            _write_record(part, url, response, total)
        with part.open("ab") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, total)
    if total is not None and have != total:
        raise _CutOffError
    return True


def _continues(response: requests.Response, have: int, total: int | None) -> bool:
    """Whether a response continues at byte `have` of the same file."""
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    first, _, whole = span.partition("/")
    same_file = total is None or whole in ("*", str(total))
    at_have = unit == "bytes" and first.startswith(f"{have}-")
    return response.status_code == 206 and at_have and same_file


def discard(part: Path) -> None:
    """Remove a partial download and its record."""
    part.unlink(missing_ok=True)
    _record_path(part).unlink(missing_ok=True)


def _record_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_record(part: Path, url: str) -> dict[str, Any]:
    """Return the record of the partial download; empty if it cannot be resumed."""
    try:
        record = json.loads(_record_path(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    same = (
        isinstance(record, dict) and record.get("url") == url and {"version", "total"} <= {*record}
    )
    return record if same else {}


def _write_record(part: Path, url: str, response: requests.Response, total: int | None) -> None:
    tag = response.headers.get("ETag", "")
    # A weak tag promises equal meaning, not equal bytes: useless for resuming.
    version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    text = json.dumps({"url": url, "version": version, "total": total})
    _record_path(part).write_text(text, encoding="utf-8")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _check_existing(target: Path, card: Card) -> None:
    problem = mismatch(target, card) if target.is_dir() else "it is a file"
    if problem is not None:
        raise DataError(
            f"{target}: exists and is not a complete {card.name} ({problem}); "
            "remove it or choose another folder"
        )


def _install_download(part: Path, target: Path, card: Card, source: ArchiveSource) -> None:
    """Check a finished download, unpack it and remove it.

    A file that is complete but wrong cannot be resumed, so it is removed too; where only the disk
    was full it stays for the next attempt.
    """
    try:
        if source.size not in (None, _size(part)):
            raise DataError(
                f"{source.url}: sent {_size(part)} bytes, expected {source.size}; try again"
            )
        if source.sha256 not in (None, file_sha256(part)):
            raise DataError(f"{source.url}: sent another file (sha256 differs); try again")
        _install(part, target, card, None)
    except DataError:
        discard(part)
        raise
    discard(part)


def _install(archive: Path, target: Path, card: Card, progress: Progress | None) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        unpack(archive, temporary, folder=card.name, progress=progress)
        problem = mismatch(temporary, card)
        if problem is not None:
            raise DataError(f"{archive}: {problem}; get the archive again")
        temporary.chmod(0o755)  # mkdtemp makes it private
        if target.is_dir():
            target.rmdir()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

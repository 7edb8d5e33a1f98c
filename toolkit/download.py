"""Download one file over HTTP, continuing where an earlier attempt was cut off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    import requests

DownloadProgress = Callable[[int, "int | None"], None]
"""Called with the bytes so far and the total, None if the server does not state it."""

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
_ATTEMPTS = 5
_CHUNK_BYTES = 1 << 14  # a chunk that is cut off is lost


class DownloadError(ToolkitError):
    """A file cannot be downloaded. The message names the host and the reason, not the file."""


class UnreachableError(DownloadError):
    """The host cannot be reached."""


class _CutOffError(Exception):
    """The server closed the connection before the announced end."""


def download(url: str, part: Path, *, progress: DownloadProgress | None = None) -> None:
    """Download `url` to `part`, continuing an earlier attempt.

    A file `<part>.json` beside it records the URL and the version (ETag or date) of what was begun;
    if the server has another version by now, or cannot resume, the download starts over. The caller
    checks the hash, and renames `part` or calls `discard`. Two processes must not download to
    the same `part` at once.

    Args:
        url: http or https address.
        part: file to write.
        progress: called after each chunk.

    Raises:
        UnreachableError: no connection.
        DownloadError: refused, or cut off too often; `part` is kept.
        OSError: the disk is full or not writable; `part` is kept.
    """
    import requests

    host = urlsplit(url).hostname or url
    for _ in range(_ATTEMPTS):
        before = _size(part)
        try:
            if _transfer(url, part, progress):
                return
            continue
        except requests.exceptions.SSLError as error:
            raise DownloadError(f"{host}: its TLS certificate is not accepted here") from error
        except requests.HTTPError as error:
            answer = error.response
            raise DownloadError(f"{host}: HTTP {answer.status_code} {answer.reason}") from error
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            _CutOffError,
        ) as error:
            failure: Exception = error
        except requests.RequestException as error:
            raise DownloadError(f"{host}: {str(error)[:100] or type(error).__name__}") from error
        if _size(part) <= before:  # no progress: another attempt would not help
            break
    if _size(part):
        raise DownloadError(f"{host}: cut off after {_size(part)} bytes; repeat to continue")
    if not isinstance(failure, requests.ConnectionError | requests.Timeout):
        raise DownloadError(f"{host}: cut off") from failure
    raise UnreachableError(f"{host}: not reachable") from failure


def discard(part: Path) -> None:
    """Remove a partial download and its record."""
    part.unlink(missing_ok=True)
    _record_file(part).unlink(missing_ok=True)


def _transfer(url: str, part: Path, progress: DownloadProgress | None) -> bool:
    """Send one request and store its content; return False if the download must start over."""
    import requests

    record = _read_record(part, url)
    done = _size(part) if record else 0
    if record and record["total"] is not None and record["total"] == done:
        return True
    headers = {"Accept-Encoding": "identity"}  # offsets count bytes of the file itself
    if done:
        headers["Range"] = f"bytes={done}-"
        if record["version"]:
            headers["If-Range"] = record["version"]
    timeout = (CONNECT_SECONDS, READ_SECONDS)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if done and not _continues(response, done, record["total"]):
            if response.status_code in (206, 416):  # about another version of the file
                discard(part)
                return False
            done = 0
        response.raise_for_status()
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise requests.RequestException("sent a web page instead of the file")
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdigit() else None
        if not done:
            part.unlink(missing_ok=True)
            _write_record(part, url, response, total)
        with part.open("ab") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    if total is not None and _size(part) != total:
        raise _CutOffError
    return True


def _continues(response: requests.Response, done: int, total: int | None) -> bool:
    """Return whether a response continues at byte `done` of the file that was begun."""
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    first, _, whole = span.partition("/")
    same_file = total is None or whole in ("*", str(total))
    at_offset = unit == "bytes" and first.startswith(f"{done}-")
    return response.status_code == 206 and at_offset and same_file


def _record_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_record(part: Path, url: str) -> dict[str, Any]:
    """Return what is recorded of an earlier attempt; empty if it cannot be continued."""
    try:
        record = json.loads(_record_file(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    same = isinstance(record, dict) and record.get("url") == url
    return record if same and {"version", "total"} <= {*record} else {}


def _write_record(part: Path, url: str, response: requests.Response, total: int | None) -> None:
    tag = response.headers.get("ETag", "")
    # A weak tag promises the same meaning, not the same bytes.
    version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    text = json.dumps({"url": url, "version": version, "total": total})
    _record_file(part).write_text(text, encoding="utf-8")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0

"""Download one file from its official address."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from toolkit.errors import WeightsError
from toolkit.home import cache_dir
from toolkit.weights.files import CHUNK_BYTES, file_sha256, replacing

if TYPE_CHECKING:
    import requests

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes so far and the whole, where the server tells it."""

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
UNREACHABLE_SECONDS = 600.0
"""How long a host that did not answer is left alone: tasks of a benchmark ask again and again."""


def download(
    url: str, target: Path, *, accepts: Callable[[str], bool], progress: Progress | None = None
) -> None:
    """Stream `url` to `target`; the file appears under its name only when it is whole and right.

    Args:
        url: http or https address.
        target: where the file belongs.
        accepts: tells whether a sha256 (64 hexadecimal digits) is the right one.
        progress: called after each megabyte.

    Raises:
        WeightsError: the host does not answer, the answer is not the file, or the hash differs.
            The message is short: the caller knows the name of the file.
    """
    import requests

    host = urlsplit(url).hostname or url
    silent_for = _seconds_since_failure(host)
    if silent_for is not None:
        raise WeightsError(f"{host} was not reachable {silent_for:.0f} s ago")
    with _open(url, host) as response, replacing(target) as temporary:
        if not response.ok:
            raise WeightsError(f"{host} answered {response.status_code} {response.reason}")
        try:
            _stream(response, temporary, progress)
        except requests.RequestException as error:
            raise WeightsError(f"{host}: download was cut off") from error
        sha256 = file_sha256(temporary)
        if not accepts(sha256):
            raise WeightsError(f"{host} sent another file (sha256 {sha256[:12]}…)")


def forget_unreachable_hosts() -> None:
    """Try every host again, because a person asked."""
    _memory().unlink(missing_ok=True)


def _open(url: str, host: str) -> requests.Response:
    import requests

    # Checkpoints do not compress, and a compressed answer would make the length useless.
    headers = {"Accept-Encoding": "identity"}
    timeout = (CONNECT_SECONDS, READ_SECONDS)
    try:
        return requests.get(url, stream=True, headers=headers, timeout=timeout)
    except requests.exceptions.SSLError as error:
        raise WeightsError(f"{host}: its TLS certificate is not accepted here") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        _remember_failure(host)
        raise WeightsError(f"{host} is not reachable") from error
    except requests.RequestException as error:
        raise WeightsError(f"{host}: {type(error).__name__}") from error


def _stream(response: requests.Response, path: Path, progress: Progress | None) -> None:
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    done = 0
    with path.open("xb") as stream:
        for chunk in response.iter_content(CHUNK_BYTES):
            stream.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    if total is not None and done != total:
        raise WeightsError(f"download was cut off ({done} of {total} bytes)")


def _memory() -> Path:
    return cache_dir() / "unreachable_hosts.json"


def _read_memory() -> dict[str, float]:
    try:
        found = json.loads(_memory().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(host): float(when) for host, when in found.items() if isinstance(when, int | float)}


def _seconds_since_failure(host: str) -> float | None:
    """Return how long ago a host failed, or None if that is too long ago to count."""
    when = _read_memory().get(host)
    if when is None:
        return None
    age = time.time() - when
    return age if 0 <= age < UNREACHABLE_SECONDS else None


def _remember_failure(host: str) -> None:
    memory = _read_memory() | {host: time.time()}
    try:
        with replacing(_memory()) as temporary:
            temporary.write_text(json.dumps(memory), encoding="utf-8")
    except OSError:
        # Only a convenience: a read-only home costs some seconds per attempt, nothing else.
        return

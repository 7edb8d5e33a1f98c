"""Downloads are continued where they were cut off, and only if the file is still the same."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.loopback import ARCHIVE, BLOCK, Server, serving
from toolkit.download import DownloadError, UnreachableError, discard, download


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as state:
        yield state


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "a.part"


def test_the_whole_file(server: Server, part: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    download(server.url, part, progress=lambda done, total: seen.append((done, total)))
    assert part.read_bytes() == ARCHIVE
    assert seen[-1] == (len(ARCHIVE), len(ARCHIVE))
    download(server.url, part)
    assert len(server.asked) == 1, "a complete part needs no network"
    discard(part)
    assert list(part.parent.iterdir()) == []


def test_cut_connections_are_continued(server: Server, part: Path) -> None:
    server.cuts = [BLOCK, BLOCK]
    download(server.url, part)
    assert part.read_bytes() == ARCHIVE
    assert server.asked == [None, f"bytes={BLOCK}-", f"bytes={2 * BLOCK}-"]


def test_an_interrupted_download_is_continued_by_the_next_call(server: Server, part: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.url, part, progress=interrupt)
    begun = part.stat().st_size
    assert 0 < begun < len(ARCHIVE)
    download(server.url, part)
    assert part.read_bytes() == ARCHIVE
    assert server.asked[-1] == f"bytes={begun}-"


@pytest.mark.parametrize("change", ["another version", "no ranges", "shorter", "damaged record"])
def test_another_file_starts_over(server: Server, part: Path, change: str) -> None:
    server.cuts = [BLOCK, 0]
    with pytest.raises(DownloadError, match=f"cut off after {BLOCK} bytes; repeat"):
        download(server.url, part)
    expected = ARCHIVE
    if change == "another version":
        server.tag, server.body = '"v2"', ARCHIVE[::-1]
        expected = ARCHIVE[::-1]
    elif change == "no ranges":
        server.ranges = False
    elif change == "shorter":
        server.tag, server.body = None, ARCHIVE[:BLOCK]
        expected = ARCHIVE[:BLOCK]
    else:
        part.with_name("a.part.json").write_text("[")
    download(server.url, part)
    assert part.read_bytes() == expected


@pytest.mark.parametrize("status", [403, 404, 503])
def test_refused(server: Server, part: Path, status: int) -> None:
    server.status = status
    with pytest.raises(DownloadError, match=f"127.0.0.1: HTTP {status} "):
        download(server.url, part)
    assert not part.exists()


def test_a_web_page_is_not_the_file(server: Server, part: Path) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="a web page instead of the file"):
        download(server.url, part)
    assert not part.exists()


def test_unreachable(part: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1: not reachable"):
        download(f"http://127.0.0.1:{port}/a", part)
    assert list(part.parent.iterdir()) == []

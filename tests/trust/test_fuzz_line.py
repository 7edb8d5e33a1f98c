"""Mutated input at the line: HTTP requests, ledgers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.line.conftest import card, grey_run, level, make_station, messages, model, named, png
from tests.trust.fuzz import PICTURES, _counted, fuzz, numbers, refused, work
from tests.trust.mutate import mutated, mutated_json
from toolkit.line.station import Station

__all__ = [
    "_counted",
    "card",
    "grey_run",
    "level",
    "make_station",
    "messages",
    "model",
    "named",
    "work",
]


BODY = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n\r\n%s\r\n--b--\r\n" % png(100)
)
HEAD = {
    "host": "127.0.0.1", "content-type": "multipart/form-data; boundary=b", "content-length": "",
    "accept": "*/*", "origin": "http://127.0.0.1",
}  # fmt: skip
PATHS = ("/predict", "/predict?include=map,mask", "/feedback?id=%s&truth=ok" % ("0" * 32),
         "/models?run=x", "/health", "/", "/live/x.jpg", "/metrics", "/stats")  # fmt: skip


async def ask(app: Any, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
    """Send one request to an ASGI application; return its status and body."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    status = next(m["status"] for m in sent if m["type"] == "http.response.start")
    return status, b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")


def test_http(make_station: Callable[..., Station]) -> None:
    from toolkit.service.app import ServiceOptions, make_app

    station = make_station(max_waiting=8, max_pixels=1_000_000)
    app = make_app(station, ServiceOptions(max_bytes=200_000), closing=False)
    loop = asyncio.new_event_loop()

    @fuzz
    @given(
        number=numbers,
        path=st.sampled_from(PATHS),
        what=st.sampled_from(["body", "raw", "head", "path"]),
    )
    def one(number: int, path: str, what: str) -> None:
        body, head = BODY, dict(HEAD)
        if what == "raw":
            head["content-type"], body = "image/png", mutated(PICTURES["rgb.png"], number)
        elif what == "body":
            body = mutated(BODY, number)
        elif what == "head":
            found = mutated_json(head, number)
            head = found if isinstance(found, dict) else head
        address = mutated(path.encode(), number)[:2000] if what == "path" else path.encode()
        where, _, query = address.partition(b"?")
        head = {**head, "content-length": head.get("content-length") or str(len(body))}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
            "method": "POST" if number % 3 else "GET", "scheme": "http",
            "path": where.decode("utf-8", "replace"), "raw_path": where, "query_string": query,
            "headers": [
                (str(k).lower().encode("latin-1", "replace"), str(v).encode("latin-1", "replace"))
                for k, v in head.items()
            ],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": "",
        }  # fmt: skip
        with refused():
            status, answer = loop.run_until_complete(ask(app, scope, body))
            assert status < 500, (status, answer[:200])
            if status >= 400:
                assert json.loads(answer)["decision"] == "NOK"

    one()
    loop.close()


@fuzz
@given(number=numbers, damaged=st.booleans())
def test_ledgers(work: Path, number: int, damaged: bool) -> None:
    from toolkit.decisions.outcomes import Outcome
    from toolkit.line.answers import Answer
    from toolkit.line.ledger import Ledger

    whole = work / "whole.sqlite"
    if not whole.exists():
        ledger = Ledger(whole)
        for one in range(5):
            ledger.add(Answer(Outcome.OK, 1.5, 4.0, 0.3, "", "m"), image=f"{one}.png", sha256="1",
                       sinks=["one"])  # fmt: skip
        ledger.add_feedback(who="me", sha256="1", image="0.png", truth="nok", decision="OK",
                            model="m")  # fmt: skip
        ledger.close()
    path = work / "a.sqlite"
    for old in work.glob("a.sqlite*"):
        old.unlink(missing_ok=True)  # SQLite removes its own when a ledger is collected
    content = whole.read_bytes()
    path.write_bytes(mutated(content, number) if damaged else content)
    fields: Any = {
        "image": "a.png", "sha256": "0", "reason": "x", "model": "m", "score": 1.0,
        "threshold": 2.0, "p_value": 0.5, "stamp": "s", "destination": "ok/a.png",
    }  # fmt: skip
    if not damaged:
        fields = mutated_json(fields, number)
        if not isinstance(fields, dict):
            return
    names = ("image", "sha256", "reason", "model", "stamp", "destination")
    text = {key: str(fields.get(key, "")) for key in names}
    found = (fields.get(key) for key in ("score", "threshold", "p_value"))
    values = [value if isinstance(value, float) else None for value in found]
    with refused():
        ledger = Ledger(path)
        try:
            answer = Answer(Outcome.NOK, *values, text["reason"], text["model"])
            ledger.add(answer, image=text["image"], sha256=text["sha256"], sinks=["one"],
                       stamp=text["stamp"], destination=text["destination"])  # fmt: skip
            for call in (ledger.count, ledger.answers, ledger.stats, ledger.feedback,
                         ledger.overruled, ledger.unmoved, ledger.differences):  # fmt: skip
                with refused():
                    call()
            with refused():
                ledger.pending("one")
            with refused():
                ledger.scores(text["model"])
        finally:
            ledger.close()

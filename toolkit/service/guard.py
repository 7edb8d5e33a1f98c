"""What stands before the service: who may ask, how much may be sent, and how slowly.

Every refusal of a prediction is a JSON object with the decision NOK, so that a client that reads
nothing but the decision is safe.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, TypeAlias

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/", "/health", "/ready"})
"""Addresses that need no token: the page itself holds no data."""
HEADER_SECONDS = 10.0
_DRAIN_SECONDS = 1.0
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class Guard:
    """ASGI middleware: host, origin, token, size of the body, and the time that it may take.

    Args:
        app: what is guarded.
        token: that requests have to carry as `Authorization: Bearer …`; None for none.
        local: whether only names of this machine are valid, against pages of other origins whose
            host name was pointed at it.
        max_bytes: of a body.
        max_bodies: bodies that are received at a time.
        seconds: that a body may take.
    """

    def __init__(
        self,
        app: App,
        *,
        token: str | None,
        local: bool,
        max_bytes: int,
        max_bodies: int,
        seconds: float,
    ) -> None:
        self._app, self._local = app, local
        self._token = None if token is None else _digest(token)
        self._max_bytes, self._max_bodies, self._seconds = max_bytes, max_bodies, seconds
        self._bodies = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {k: v.decode("latin-1") for k, v in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refuse(send, *refusal, receive)
            return
        if scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, _with_headers(send))
            return
        if self._bodies >= self._max_bodies:
            await refuse(send, 503, "too many requests at a time; try again later")
            return
        self._bodies += 1
        try:
            body = await asyncio.wait_for(self._read(receive), self._seconds)
        except asyncio.TimeoutError:
            await refuse(send, 408, f"the request took more than {self._seconds:g} s to send")
            return
        except _TooLargeError:
            limit = f"{self._max_bytes / 1e6:g} MB"
            await refuse(send, 413, f"the request is larger than the limit of {limit}", receive)
            return
        finally:
            self._bodies -= 1
        if body is None:  # the client has gone
            return
        await self._app(scope, _once(body, receive), _with_headers(send))

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> tuple[int, str] | None:
        host = headers.get(b"host", "")
        if self._local and _name(host) not in _LOCAL:
            return 421, "this service answers to localhost only"
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "requests from pages of another origin are refused"
        if self._token is not None and scope["path"] not in OPEN:
            kind, _, given = headers.get(b"authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(_digest(given), self._token):
                return 401, "wrong or missing token; send it as Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or len(length) > 15:
            return 400, "the header Content-Length is no number"
        if int(length) > self._max_bytes:
            limit = f"{self._max_bytes / 1e6:g} MB"
            return 413, f"the request is larger than the limit of {limit}"
        return None

    async def _read(self, receive: Receive) -> bytes | None:
        blocks, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            block = message.get("body", b"")
            size += len(block)
            if size > self._max_bytes:
                raise _TooLargeError
            blocks.append(block)
            if not message.get("more_body"):
                return b"".join(blocks)


class _TooLargeError(Exception):
    pass


class TimedProtocol(HttpToolsProtocol):
    """HTTP of uvicorn that closes connections whose headers do not come."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        super().connection_made(transport)
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Wait for the headers of the next request, if this is its beginning."""
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_headers()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_headers(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def refuse(send: Send, status: int, reason: str, receive: Receive | None = None) -> None:
    """Answer with a refusal, which is NOK.

    Where a body is still being sent, it is read and thrown away for a moment after the answer:
    otherwise the connection would be reset, and the client might not see why.
    """
    body = json.dumps({"decision": "NOK", "reason": reason}).encode()
    headers = [(b"content-type", b"application/json"), *_HEADERS]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413, 503):  # the rest of the body is not read
        headers.append((b"connection", b"close"))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": receive is not None})
    if receive is not None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_drain(receive), _DRAIN_SECONDS)
        await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        continue


def _with_headers(send: Send) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await send(message)

    return wrapped


def _once(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read, then what comes after it."""
    given = False

    async def wrapped() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return wrapped


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("latin-1", "replace")).digest()


def _name(host: str) -> str:
    """Return the name of a host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()

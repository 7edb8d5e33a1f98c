"""Run the service: the address, the token, and uvicorn."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.errors import ConfigError

_LEAST_TOKEN = 16


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, so that a port in use is known before a model is loaded.

    Raises:
        ConfigError: the address is none of this machine, or in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except (OSError, OverflowError) as error:
        opened.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--host {host} --port {port}: {reason}; choose another") from error
    return opened


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(token: str | None, file: Path | None, host: str) -> str | None:
    """Return the token of the options; one is needed for any address but loopback.

    Raises:
        ConfigError: there is none but it is needed, it is too short, or the file cannot be read.
    """
    if file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--token-file {file}: cannot be read ({error})") from error
    if token is None:
        if is_loopback(host):
            return None
        raise ConfigError(f"--host {host}: others could reach it; add --token-file FILE")
    if len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(f"token: needs at least {_LEAST_TOKEN} printable ASCII characters")
    return token


def make_server(app: Any, *, seconds: float) -> Any:
    """Return the uvicorn server of an application.

    Args:
        app: ASGI application.
        seconds: that open requests have when it is stopped.
    """
    import uvicorn

    from toolkit.service.guard import TimedProtocol

    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        limit_concurrency=512,
        timeout_graceful_shutdown=round(seconds) + 1,
        h11_max_incomplete_event_size=None,
    )
    return uvicorn.Server(config)


@contextmanager
def serving(app: Any, opened: socket.socket, *, seconds: float) -> Iterator[None]:
    """Serve in a thread for as long as the context lasts."""
    server = make_server(app, seconds=seconds)
    thread = threading.Thread(target=server.run, args=[[opened]], name="http", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(seconds + 2)

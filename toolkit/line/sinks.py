"""Where events go: JSON Lines, a webhook, an MQTT broker. Each takes one event and may fail."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from toolkit.errors import ConfigError, MissingExtraError

SECRET = "TOOLKIT_WEBHOOK_SECRET"
PASSWORD = "TOOLKIT_SINK_PASSWORD"
_SECONDS = 5.0


class SinkDownError(Exception):
    """An event did not arrive; it is delivered again later."""


class Sink(ABC):
    """One receiver of events.

    Attributes:
        name: by which its deliveries are known in the ledger; without any password.
    """

    name: str

    @abstractmethod
    def send(self, event: Mapping[str, Any]) -> None:
        """Deliver an event, or raise.

        Raises:
            SinkDownError: it did not arrive.
        """

    def close(self) -> None:
        """End the connection."""
        return


class JsonLines(Sink):
    """A file with one event per line, each exactly once, whatever ended the process before."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, f"file:{path}"
        self._written: set[str] = set()
        self._repaired = False

    def send(self, event: Mapping[str, Any]) -> None:
        """Append a line."""
        try:
            if not self._repaired:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._written = self._repair()
                self._repaired = True
            if event["id"] in self._written:
                return  # written before the delivery could be recorded
            with self.path.open("ab") as file:
                file.write(json.dumps(event).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._repaired = False  # the line may be there in part
            raise SinkDownError(f"cannot be written ({error.strerror})") from error

    def _repair(self) -> set[str]:
        """Cut off a line that was not finished; return the ids of the last ones."""
        if not self.path.is_file():
            return set()
        with self.path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - (1 << 20))
            file.seek(start)
            tail = file.read()
            end = tail.rfind(b"\n") + 1
            if end < len(tail):
                file.truncate(start + end)
            lines = tail[:end].splitlines()
        found = set()
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                found.add(str(json.loads(line)["id"]))
        return found


class Webhook(Sink):
    """HTTP POST of each event as JSON, signed where a secret is set.

    Headers: `X-Toolkit-Id` (the same for every attempt), `X-Toolkit-Timestamp` (seconds), and
    `X-Toolkit-Signature`: `sha256=` and the HMAC of timestamp, a full stop, and the body.
    """

    def __init__(self, address: str, secret: str | None = None) -> None:
        import requests

        password = urlsplit(address).password
        self.name = address.replace(f":{password}@", "@", 1) if password else address
        self._address, self._secret = address, secret
        self._session = requests.Session()

    def send(self, event: Mapping[str, Any]) -> None:
        """Post an event; any status but 2xx counts as not arrived."""
        import requests

        body = json.dumps(event, sort_keys=True).encode()
        stamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "X-Toolkit-Id": str(event["id"]),
            "X-Toolkit-Timestamp": stamp,
        }
        if self._secret:
            headers["X-Toolkit-Signature"] = signature(self._secret, stamp, body)
        try:
            answer = self._session.post(
                self._address, data=body, headers=headers, timeout=_SECONDS, allow_redirects=False
            )
        except requests.RequestException as error:
            raise SinkDownError(type(error).__name__) from error
        if not 200 <= answer.status_code < 300:
            raise SinkDownError(f"HTTP status {answer.status_code}")

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def signature(secret: str, stamp: str, body: bytes) -> str:
    """Return the signature of a webhook's body, as its receiver computes it.

    Example:
        >>> signature("secret", "0", b"{}")[:15]
        'sha256=4bbe8d39'
    """
    digest = hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256)
    return "sha256=" + digest.hexdigest()


class Mqtt(Sink):
    """An MQTT broker: events on the topic, quality of service 1, and whether the line is up.

    `<topic>/status` is retained: `{"online": true}`, and, by the broker itself when the connection
    is lost, `{"online": false, "decision": "NOK"}`.
    """

    def __init__(self, address: str) -> None:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise MissingExtraError("paho-mqtt", extra="line", purpose="send to MQTT") from error
        parts = urlsplit(address)
        self.name, self._topic = _without_password(parts), parts.path.strip("/")
        if not self._topic:
            raise ConfigError(f"--sink {self.name}: names no topic; write mqtt://host/topic")
        self._host, self._port = parts.hostname or "localhost", parts.port or 1883
        self._client = Client(CallbackAPIVersion.VERSION2)
        if parts.username:
            password = parts.password or os.environ.get(PASSWORD)
            self._client.username_pw_set(parts.username, password)
        down = json.dumps({"online": False, "decision": "NOK"})
        self._client.will_set(f"{self._topic}/status", down, qos=1, retain=True)
        self._client.on_connect = lambda client, *_: client.publish(
            f"{self._topic}/status", json.dumps({"online": True}), qos=1, retain=True
        )
        self._started = False

    def send(self, event: Mapping[str, Any]) -> None:
        """Publish an event and wait until the broker has it."""
        try:
            if not self._started:
                self._client.connect(self._host, self._port, keepalive=10)
                self._client.loop_start()  # connects again by itself
                self._started = True
            if not self._client.is_connected():
                time.sleep(0.2)
            if not self._client.is_connected():
                raise SinkDownError("not connected")
            sent = self._client.publish(self._topic, json.dumps(event), qos=1)
            sent.wait_for_publish(_SECONDS)
            if not sent.is_published():
                raise SinkDownError("no answer from the broker")
        except (OSError, ValueError, RuntimeError) as error:
            raise SinkDownError(str(error)) from error

    def close(self) -> None:
        """Say that the line is down, and disconnect."""
        if self._started:
            down = json.dumps({"online": False, "decision": "NOK"})
            sent = self._client.publish(f"{self._topic}/status", down, qos=1, retain=True)
            if self._client.is_connected():
                sent.wait_for_publish(1)
            self._client.disconnect()
            self._client.loop_stop()


def make_sink(text: str) -> Sink:
    """Return the sink that an address names: `file:PATH`, `http(s)://…`, `mqtt://host/topic`.

    Raises:
        ConfigError: it names none.
        MissingExtraError: its library is not installed.
    """
    if text.startswith("file:") and len(text) > len("file:"):
        return JsonLines(Path(text.removeprefix("file:")))
    if text.startswith(("http://", "https://")) and urlsplit(text).hostname:
        return Webhook(text, os.environ.get(SECRET))
    if text.startswith("mqtt://"):
        return Mqtt(text)
    raise ConfigError(
        f"--sink {text}: not known; write file:PATH, http(s)://HOST/PATH, mqtt://HOST/TOPIC, "
        "modbus://HOST:PORT or opc.tcp://HOST:PORT#NODE"
    )


def _without_password(parts: SplitResult) -> str:
    user = f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{user}{parts.hostname}{port}{parts.path}"

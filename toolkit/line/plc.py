"""Outputs to a controller: Modbus TCP and OPC UA, with a heartbeat, fail-safe.

A controller wants the decision on the part in front of it, so nothing is delivered later. Whatever
goes wrong, the output is not OK: it starts as NOK, turns NOK when the line stops or hangs, and the
heartbeat stands still when nobody is left to write.
"""

from __future__ import annotations

import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from toolkit.decisions.outcomes import Outcome
from toolkit.errors import ConfigError, MissingExtraError

CODES = {Outcome.NOK: 0, Outcome.OK: 1, Outcome.REVIEW: 2}
"""Only 1 is OK, so that a memory of zeros is not."""
SCHEMES = ("modbus://", "opc.tcp://")
_RETRY = 1.0


@dataclass(frozen=True)
class State:
    """What a controller reads.

    Attributes:
        heartbeat: counts on while the line is alive, 0 to 65535.
        decision: 0 NOK, 1 OK, 2 REVIEW.
        sequence: number of the decision, 0 to 65535; a gap means that one was missed: NOK.
        error: 0; 1 where the decision is NOK because something failed.
        score: raw score; NaN without one.
    """

    heartbeat: int
    decision: int
    sequence: int
    error: int
    score: float


class Output(ABC):
    """A connection to a controller, written by one thread.

    Args:
        name: its address.
        alive: whether the line works; where it does not, the output is NOK and the heartbeat rests.
        say: called once when the controller cannot be reached, and when it can again.
        interval: seconds between heartbeats.
    """

    def __init__(
        self,
        name: str,
        *,
        alive: Callable[[], bool],
        say: Callable[[str], None],
        interval: float = 1.0,
    ) -> None:
        self.name, self._alive, self._say, self._interval = name, alive, say, interval
        self.down = ""
        self._heartbeat, self._sequence, self._error, self._score = 0, 0, 1, float("nan")
        self._decision = CODES[Outcome.NOK]
        self._queue: deque[tuple[Outcome, float | None, bool]] = deque(maxlen=256)
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def show(self, decision: Outcome, score: float | None, *, failed: bool = False) -> None:
        """Show a decision, in its turn."""
        self._queue.append((decision, score, failed))
        self._wake.set()

    def close(self) -> None:
        """Leave NOK behind, and disconnect."""
        self._stop.set()
        self._wake.set()
        self._thread.join(5)

    @abstractmethod
    def _connect(self) -> None: ...

    @abstractmethod
    def _write(self, state: State) -> None: ...

    @abstractmethod
    def _disconnect(self) -> None: ...

    def _run(self) -> None:
        connected, beat_at = False, 0.0
        while True:
            stopping = self._stop.is_set()
            try:
                if not connected:
                    self._queue.clear()  # those parts have gone by
                    self._set_failed()
                    self._connect()
                    connected = True
                    self._write(self._state())
                    self._note("")
                if stopping:
                    self._set_failed()
                    self._write(self._state())
                    self._disconnect()
                    return
                if not self._alive():
                    self._queue.clear()
                    if not self._error or self._decision:
                        self._set_failed()
                        self._write(self._state())
                else:
                    self._show_next()
                    if time.monotonic() >= beat_at:
                        beat_at = time.monotonic() + self._interval
                        self._heartbeat = (self._heartbeat + 1) % 65536
                        self._write(self._state())
            except Exception as error:  # libraries raise many kinds
                connected = False
                self._note(str(error) or type(error).__name__)
                try:
                    self._disconnect()
                except Exception:
                    self.down = self.down or "lost"
                if stopping:
                    return
                self._stop.wait(_RETRY)
                continue
            if not self._queue:
                self._wake.wait(min(0.1, self._interval))
                self._wake.clear()

    def _show_next(self) -> None:
        while self._queue:
            decision, score, failed = self._queue.popleft()
            self._decision, self._error = CODES[decision], int(failed)
            self._score = float("nan") if score is None else score
            self._sequence = (self._sequence + 1) % 65536
            self._write(self._state())

    def _set_failed(self) -> None:
        self._decision, self._error, self._score = CODES[Outcome.NOK], 1, float("nan")

    def _state(self) -> State:
        return State(self._heartbeat, self._decision, self._sequence, self._error, self._score)

    def _note(self, problem: str) -> None:
        problem = " ".join(problem.split())[:200]
        if problem and not self.down:
            self._say(f"output {self.name}: {problem}; tried again, its heartbeat stands still")
        elif self.down and not problem:
            self._say(f"output {self.name}: up again")
        self.down = problem


class ModbusOutput(Output):
    """Holding registers of a Modbus TCP server, written in one request.

    From the base address on: heartbeat, decision, sequence, error, score (float32, high word
    first). Address: `modbus://HOST:PORT?address=0&unit=1`.
    """

    def __init__(self, address: str, **options: Any) -> None:
        try:
            from pymodbus.client import ModbusTcpClient
        except ImportError as error:
            raise MissingExtraError("pymodbus", extra="line", purpose="write to Modbus") from error
        parts = urlsplit(address)
        query = parse_qs(parts.query)
        try:
            self._base = int(query.get("address", ["0"])[0])
            self._unit = int(query.get("unit", ["1"])[0])
            port = parts.port or 502
        except ValueError as error:
            raise ConfigError(f"--sink {address}: address, unit and port are numbers") from error
        host = parts.hostname or "localhost"
        self._client: Any = ModbusTcpClient(host, port=port, timeout=2, retries=0)
        super().__init__(address, **options)

    def _connect(self) -> None:
        if not self._client.connect():
            raise OSError("no connection")

    def _write(self, state: State) -> None:
        score = struct.unpack(">HH", struct.pack(">f", state.score))
        values = [state.heartbeat, state.decision, state.sequence, state.error, *score]
        answer = self._client.write_registers(self._base, values, device_id=self._unit)
        if answer.isError():
            raise OSError(str(answer))

    def _disconnect(self) -> None:
        self._client.close()


class OpcUaOutput(Output):
    """Variables of an OPC UA server: NODE.Heartbeat, .Decision, .Sequence, .Error, .Score.

    Address: `opc.tcp://HOST:PORT#ns=2;s=Line1`. The four whole numbers keep the type that the
    server gives them; all are written in one request.
    """

    def __init__(self, address: str, **options: Any) -> None:
        try:
            import asyncua  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("asyncua", extra="line", purpose="write to OPC UA") from error
        self._server, _, node = address.partition("#")
        if ";s=" not in f";{node}":
            raise ConfigError(f"--sink {address}: names no node; add #ns=2;s=NAME")
        self._ids = [
            f"{node}.{name}" for name in ("Heartbeat", "Decision", "Sequence", "Error", "Score")
        ]
        self._client: Any = None
        super().__init__(address, **options)

    def _connect(self) -> None:
        from asyncua.sync import Client

        self._client = Client(self._server, timeout=2)
        self._client.connect()
        self._nodes = [self._client.get_node(one) for one in self._ids]
        self._types = [node.read_data_type_as_variant_type() for node in self._nodes]

    def _write(self, state: State) -> None:
        from asyncua import ua

        values = (state.heartbeat, state.decision, state.sequence, state.error, state.score)
        variants = [
            ua.DataValue(ua.Variant(value, kind))
            for value, kind in zip(values, self._types, strict=True)
        ]
        self._client.write_values(self._nodes, variants)

    def _disconnect(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            client.disconnect()


def make_output(
    text: str, *, alive: Callable[[], bool], say: Callable[[str], None], interval: float = 1.0
) -> Output:
    """Return the output that an address names: `modbus://…` or `opc.tcp://…`.

    Raises:
        ConfigError: the address is not complete.
        MissingExtraError: its library is not installed.
    """
    kind = ModbusOutput if text.startswith("modbus://") else OpcUaOutput
    return kind(text, alive=alive, say=say, interval=interval)

"""Sinks and outputs against real receivers: nothing lost, the same id, NOK whenever in doubt."""

from __future__ import annotations

import json
import math
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.line.conftest import eventually, png
from tests.line.receivers import Hook, Loop, broker
from tests.ports import free_port
from toolkit.decisions.outcomes import Outcome
from toolkit.errors import ConfigError
from toolkit.line.answers import Answer
from toolkit.line.delivery import Delivery
from toolkit.line.ledger import Ledger
from toolkit.line.plc import make_output
from toolkit.line.sinks import SECRET, JsonLines, Sink, SinkDownError, make_sink, signature
from toolkit.line.station import Station

Make = Callable[..., Station]


def record(station: Station, data: bytes, name: str = "a.png") -> dict[str, Any]:
    answer = station.answer(data, name)
    return station.record(answer, image=name, data=data, sha256="0")


def test_a_webhook_gets_everything_signed_and_with_the_same_id(
    make_station: Make, level: float, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "shared")
    hook = Hook()
    hook.refuse = [500]
    station = make_station(hook.address)
    first = record(station, png(level))
    second = record(station, png(level + 40))
    eventually(lambda: len(hook.requests) == 3)
    assert [e["id"] for e in hook.events] == [first["id"], first["id"], second["id"]]
    assert hook.events[2]["decision"] == "NOK"
    for headers, body in hook.requests:
        stamp = headers["X-Toolkit-Timestamp"]
        assert headers["X-Toolkit-Signature"] == signature("shared", stamp, body)
        assert headers["X-Toolkit-Id"] == json.loads(body)["id"]
    eventually(lambda: "up again" in messages[-1])
    assert "HTTP status 500; kept in the ledger" in messages[0]
    eventually(lambda: station.ledger.stats()["waiting"] == {})


def test_what_could_not_be_delivered_is_delivered_by_the_next_process(
    make_station: Make, level: float, tmp_path: Path
) -> None:
    hook = Hook()
    hook.refuse = [503] * 50
    station = make_station(hook.address)
    event = record(station, png(level))
    eventually(lambda: len(hook.requests) == 1)
    station.close()
    hook.refuse = []
    make_station(hook.address)
    eventually(lambda: len(hook.requests) > 1 and not hook.refuse)
    assert {e["id"] for e in hook.events} == {event["id"]}


def test_json_lines_are_whole_and_single(tmp_path: Path) -> None:
    path = tmp_path / "out/answers.jsonl"
    sink = JsonLines(path)
    for number in "123":
        sink.send({"id": number})
    with path.open("a") as file:
        file.write('{"id": "4"')  # killed here
    again = JsonLines(path)
    again.send({"id": "3"})  # was written, but not yet recorded as delivered
    again.send({"id": "4"})
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == list("1234")


def test_a_sink_that_is_down_holds_up_no_other(tmp_path: Path, messages: list[str]) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    down = f"http://127.0.0.1:{free_port()}/"
    delivery = Delivery(
        ledger, [make_sink(down), make_sink(f"file:{tmp_path}/a.jsonl")], say=messages.append
    )
    for number in range(5):
        ledger.add(Answer.failed("x", model="m"), image=str(number), sha256=str(number),
                   sinks=delivery.names)  # fmt: skip
    delivery.wake()
    eventually(lambda: ledger.pending(delivery.names[1]) == [] and delivery.down)
    delivery.close()
    assert len(ledger.pending(down)) == 5
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 5
    assert sum(down in line for line in messages) == 1


def test_a_sink_that_refuses_now_and_then_keeps_its_pace(tmp_path: Path) -> None:
    calls: list[str] = []

    class Moody(Sink):
        name = "moody"

        def send(self, event: Mapping[str, Any]) -> None:
            calls.append(str(event["id"]))
            if len(calls) % 5 == 0:
                raise SinkDownError("HTTP status 503")

    ledger = Ledger(tmp_path / "ledger.sqlite")
    delivery = Delivery(ledger, [Moody()], say=lambda _: None, first_wait=0.01)
    for number in range(100):
        ledger.add(Answer.failed("x", model="m"), image=str(number), sha256=str(number),
                   sinks=delivery.names)  # fmt: skip
    delivery.wake()
    # With waits that double at each refusal the last event would come after many minutes.
    eventually(lambda: ledger.pending("moody") == [])
    delivery.close()
    assert len(set(calls)) == 100
    assert len(calls) == 100 + (len(calls) // 5)


def test_mqtt(make_station: Make, level: float, tmp_path: Path) -> None:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    port = free_port()
    got: list[tuple[str, dict[str, Any]]] = []
    station = make_station(f"mqtt://127.0.0.1:{port}/line1")  # the broker is not up yet
    early = record(station, png(level))
    eventually(lambda: station.delivery.down)
    with broker(tmp_path, port):
        client = Client(CallbackAPIVersion.VERSION2)
        client.on_message = lambda _, __, m: got.append((m.topic, json.loads(m.payload)))
        client.connect("127.0.0.1", port)
        client.subscribe("line1/#", qos=1)
        client.loop_start()
        late = record(station, png(level + 40))
        eventually(lambda: sum(topic == "line1" for topic, _ in got) == 2, 20)
        answers = [event for topic, event in got if topic == "line1"]
        assert [e["id"] for e in answers] == [early["id"], late["id"]]
        assert ("line1/status", {"online": True}) in got
        station.close()
        eventually(lambda: got[-1][1] == {"online": False, "decision": "NOK"})
        client.loop_stop()


class Controller:
    """What a controller holds: read by `state`, for both protocols alike."""

    def __init__(self, read: Callable[[], tuple[int, int, int, int, float]], address: str) -> None:
        self.read, self.address = read, address


@pytest.fixture(params=["modbus", "opc.tcp"])
def controller(request: pytest.FixtureRequest) -> Any:
    """A server that holds no OK at the beginning."""
    loop, port = Loop(), free_port()
    make = modbus_server if request.param == "modbus" else opcua_server
    found, stop = loop.run(make(port, loop))
    yield found
    loop.run(stop())
    loop.close()


async def modbus_server(port: int, loop: Loop) -> Any:
    from pymodbus.client import ModbusTcpClient
    from pymodbus.server import ModbusTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    block = SimData(0, count=100, values=7, datatype=DataType.REGISTERS)
    server = ModbusTcpServer(SimDevice(1, simdata=[block]), address=("127.0.0.1", port))
    await server.serve_forever(background=True)
    client: Any = ModbusTcpClient("127.0.0.1", port=port)

    def read() -> tuple[int, int, int, int, float]:
        client.connect()
        values = client.read_holding_registers(10, count=6, device_id=1).registers
        (score,) = struct.unpack(">f", struct.pack(">HH", *values[4:]))
        return (*values[:4], score)  # type: ignore[return-value]

    async def stop() -> None:
        client.close()
        await server.shutdown()

    return Controller(read, f"modbus://127.0.0.1:{port}?address=10&unit=1"), stop


async def opcua_server(port: int, loop: Loop) -> Any:
    from asyncua import Server, ua

    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/")
    index = await server.register_namespace("line")
    parent = await server.nodes.objects.add_object(index, "Line1")
    nodes = []
    for name in ("Heartbeat", "Decision", "Sequence", "Error", "Score"):
        kind = ua.VariantType.Float if name == "Score" else ua.VariantType.UInt16
        place = ua.NodeId(f"Line1.{name}", index)
        value = 7.0 if name == "Score" else 7
        nodes.append(await parent.add_variable(place, name, value, kind))
        await nodes[-1].set_writable()
    await server.start()

    async def values() -> tuple[Any, ...]:
        return tuple([await node.read_value() for node in nodes])

    address = f"opc.tcp://127.0.0.1:{port}/#ns={index};s=Line1"
    return Controller(lambda: loop.run(values()), address), server.stop


def test_a_controller_sees_decisions_and_a_heartbeat(
    controller: Controller, make_station: Make, level: float
) -> None:
    station = make_station(controller.address)
    eventually(lambda: controller.read()[1:4] == (0, 0, 1))  # NOK before anything is decided
    before = controller.read()[0]
    eventually(lambda: controller.read()[0] > before + 2)
    for number, (offset, code) in enumerate([(0, 1), (7, 2), (40, 0)], 1):
        record(station, png(level + offset))
        eventually(lambda c=code, n=number: controller.read()[1:4] == (c, n, 0))
        assert controller.read()[4] == pytest.approx(offset, abs=0.2)
    record(station, b"no image")
    eventually(lambda: controller.read()[1:4] == (0, 4, 1))
    assert math.isnan(controller.read()[4])
    record(station, png(level))
    eventually(lambda: controller.read()[1] == 1)
    station.close()
    assert controller.read()[1:4:2] == (0, 1)


def test_a_line_that_hangs_is_nok_without_a_heartbeat(controller: Controller) -> None:
    alive = threading.Event()
    alive.set()
    output = make_output(controller.address, alive=alive.is_set, say=lambda _: None, interval=0.05)
    output.show(Outcome.OK, 1.0)
    eventually(lambda: controller.read()[1] == 1)
    alive.clear()
    eventually(lambda: controller.read()[1:4:2] == (0, 1))
    beat = controller.read()[0]
    threading.Event().wait(0.3)
    assert controller.read()[0] == beat
    alive.set()
    eventually(lambda: controller.read()[0] > beat)
    assert controller.read()[1] == 0  # until the next decision
    output.close()


def test_a_controller_that_is_not_there_is_said_once(messages: list[str]) -> None:
    output = make_output(
        f"modbus://127.0.0.1:{free_port()}", alive=lambda: True, say=messages.append, interval=0.05
    )
    eventually(lambda: messages)
    output.show(Outcome.OK, 1.0)
    threading.Event().wait(1.2)
    output.close()
    assert len(messages) == 1
    assert "its heartbeat stands still" in messages[0]


@pytest.mark.parametrize(
    "text", ["ftp://x", "mqtt://host", "file:", "http://", "nothing", "mqtt://host/"]
)
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(ConfigError, match="--sink"):
        make_sink(text)


@pytest.mark.parametrize("text", ["modbus://host:x", "opc.tcp://host:4840"])
def test_wrong_controllers(text: str) -> None:
    with pytest.raises(ConfigError, match="--sink"):
        make_output(text, alive=lambda: True, say=print)

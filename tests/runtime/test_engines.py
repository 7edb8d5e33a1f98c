"""How networks are opened in OpenVINO."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.runtime import engines

onnx = pytest.importorskip("onnx", reason="onnx is not installed: inspection-toolkit[onnx]")
openvino = pytest.importorskip("openvino", reason="openvino is not installed")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network of one operation."""
    from onnx import TensorProto, helper

    shape = [1, 4]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All networks that OpenVINO compiles."""
    found: list[Any] = []

    class Core(openvino.Core):  # type: ignore[misc,name-defined]
        def compile_model(self, *words: Any, **named: Any) -> Any:
            found.append(super().compile_model(*words, **named))
            return found[-1]

    monkeypatch.setattr(engines, "openvino_core", Core)
    return found


@pytest.mark.parametrize(("threads", "processors", "bound"), [(1, 2, False), (2, 2, True)])
def test_threads_are_bound_to_processors_only_where_all_are_used(
    network: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch,
    threads: int, processors: int, bound: bool,
) -> None:  # fmt: skip
    """Else the single threads of two processes share the first processor."""
    monkeypatch.setattr(engines, "_usable_processors", lambda: processors)
    run = engines.open_network(network, "openvino", "float32", threads=threads)
    (found,) = run(np.array([[-1, 2, 0, 3]], np.float32))  # type: ignore[arg-type]
    assert found.tolist() == [[0, 2, 0, 3]]
    assert compiled[0].get_property("ENABLE_CPU_PINNING") is bound


@pytest.mark.parametrize(("threads", "streams"), [(1, [1]), (2, [1, 2])])
def test_a_network_of_a_service_is_compiled_for_images_alone_and_together(
    network: Path, compiled: list[Any], threads: int, streams: list[int]
) -> None:
    run = engines.open_network(network, "openvino", "float32", threads=threads, streams=0)
    (found,) = run(np.array([[-1, 2, 0, 3]], np.float32))  # type: ignore[arg-type]
    assert found.tolist() == [[0, 2, 0, 3]]
    assert [int(one.get_property("NUM_STREAMS")) for one in compiled] == streams
    assert not any(one.get_property("ENABLE_CPU_PINNING") for one in compiled)


def test_calls_at_the_same_time_share_the_threads() -> None:
    calls: list[str] = []

    def alone(image: np.ndarray) -> list[np.ndarray]:
        calls.append("alone")
        if image.any():  # another image comes in the meantime
            run(np.zeros(1, np.uint8))
        return [image]

    def together(image: np.ndarray) -> list[np.ndarray]:
        calls.append("together")
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        return [image]

    run = engines._choosing(alone, together)
    run(np.ones(1, np.uint8))
    with pytest.raises(RuntimeError, match="out of memory"):
        run(np.ones(1, np.uint8))
    run(np.zeros(1, np.uint8))  # what fails is not counted as still going on
    assert calls == ["alone", "together", "alone", "together", "alone"]


FIRST_CALLS = """
import sys, threading
from pathlib import Path
import numpy as np
from toolkit.runtime.engines import open_network

run = open_network(Path(sys.argv[1]), "openvino", "float32", threads=2, streams=0)
barrier = threading.Barrier(4)

def call():
    barrier.wait()
    run(np.zeros((1, 4), np.float32))

sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=call) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


@pytest.mark.slow
def test_first_calls_of_several_threads_do_not_wait_for_each_other(network: Path) -> None:
    """OpenVINO's own tables hung most of such processes, and now and then a prediction."""
    words = [sys.executable, "-c", FIRST_CALLS, str(network)]
    for _ in range(6):
        assert subprocess.run(words, timeout=60).returncode == 0

"""How networks are opened in OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.runtime import engines

onnx = pytest.importorskip("onnx", reason="onnx is not installed: inspection-toolkit[onnx]")
openvino = pytest.importorskip("openvino", reason="openvino is not installed")


@pytest.mark.parametrize(("threads", "processors", "bound"), [(1, 2, False), (2, 2, True)])
def test_threads_are_bound_to_processors_only_where_all_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, processors: int, bound: bool
) -> None:
    """Else the single threads of two processes share the first processor."""
    from onnx import TensorProto, helper

    shape = [1, 4]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    compiled: list[Any] = []

    class Core(openvino.Core):  # type: ignore[misc,name-defined]
        def compile_model(self, *words: Any, **named: Any) -> Any:
            compiled.append(super().compile_model(*words, **named))
            return compiled[-1]

    monkeypatch.setattr(engines, "openvino_core", Core)
    monkeypatch.setattr(engines, "_usable_processors", lambda: processors)
    run = engines.open_network(tmp_path / "m.onnx", "openvino", "float32", threads=threads)
    (found,) = run(np.array([[-1, 2, 0, 3]], np.float32))  # type: ignore[arg-type]
    assert found.tolist() == [[0, 2, 0, 3]]
    assert compiled[0].get_property("ENABLE_CPU_PINNING") is bound

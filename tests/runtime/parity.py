"""A predictor's network as ONNX says what it says in torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from toolkit.data.images import read_rgb
from toolkit.data.types import Sample
from toolkit.inference.engine_files import write_network
from toolkit.methods.base import Predictor
from toolkit.runs.run import Run
from toolkit.runtime.engines import open_network


def check_onnx(
    predictor: Predictor, samples: Sequence[Sample], folder: Path, *, tolerance: float = 1e-3
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    graph = predictor.graph()
    assert graph is not None
    write_network(graph, folder / "model.onnx", Run(folder, {}))
    engine = predictor.with_engine(open_network(folder / "model.onnx", "onnxruntime", "float32"))
    images = [read_rgb(one.image) for one in samples]
    wanted, found = predictor.predict(images), engine.predict(images)
    for one, other in zip(found, wanted, strict=True):
        assert one.score == pytest.approx(other.score, rel=tolerance, abs=tolerance)
        if other.anomaly_map is not None:
            largest = float(np.abs(other.anomaly_map).max())
            np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, atol=tolerance * largest)
        assert one.class_probabilities == pytest.approx(other.class_probabilities, abs=tolerance)
    # Another image gives another answer: the graph is no constant.
    grey = [np.full((64, 64, 3), value, np.uint8) for value in (0, 200)]
    first, second = engine.predict(grey)
    assert first.score != second.score

"""Writing a network as ONNX: what comes out is opened again, and free sizes stay free."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.errors import MissingExtraError
from toolkit.methods.onnx_graph import write_graph


class _Sum(torch.nn.Module):
    def forward(self, points: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return points.sum(dim=1) + shift


def test_named_inputs_and_a_free_axis(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    session = write_graph(
        _Sum(),
        {"points": torch.ones(1, 2), "shift": torch.zeros(1)},
        ["total"],
        tmp_path / "sum.onnx",
        dynamic_axes={"points": {1: "n"}},
    )
    points, shift = np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32)
    (total,) = session.run(["total"], {"points": points, "shift": shift})
    assert total == pytest.approx([10.5])
    assert (tmp_path / "sum.onnx").is_file()


@pytest.mark.parametrize(
    ("package", "wanted"),
    [("onnx", "pip install onnx$"), ("onnxruntime", r"pip install 'inspection-toolkit\[onnx\]'$")],
)
def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, wanted: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"{package} is needed.*{wanted}"):
        write_graph(_Sum(), {"points": torch.ones(1, 2)}, ["total"], tmp_path / "sum.onnx")
    assert not list(tmp_path.iterdir())

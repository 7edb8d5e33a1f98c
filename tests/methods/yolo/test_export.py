"""What an export says of itself; that it agrees with the run is tested where both are trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from toolkit.methods.yolo import export
from toolkit.methods.yolo.export import export_onnx
from toolkit.methods.yolo.views import PLAIN, View

FOUR = (PLAIN, View(1), View(2), View(0, mirrored=True))


class _Detector:
    stride = torch.tensor([32.0])
    names = dict(enumerate(("chip", "nothing")))  # noqa: RUF012 - as Ultralytics has it
    model = (SimpleNamespace(export=False, format=""),)


@pytest.mark.parametrize(
    ("views", "background", "fits"),
    [
        ((PLAIN,), "", True),
        ((PLAIN,), "nothing", True),  # a candidate is dropped by what stands in the output
        (FOUR, "", False),
        (FOUR, "nothing", False),
    ],
)
def test_it_says_what_the_run_does_beside(
    views: Sequence[View],
    background: str,
    fits: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "write_graph", lambda *_: SimpleNamespace(run=None))
    detector: Any = _Detector()
    made = export_onnx(detector, tmp_path, [], image_size=64, views=views, background=background)
    assert (made.no_threshold == "") == fits
    if not fits:
        assert "fused over 4 views" in made.no_threshold
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["views"]["exported"] == 1
    described = [View(one["turns"], one["mirrored"]) for one in about["views"]["run"]]
    assert described == list(views)
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert len({view.of(picture).tobytes() for view in described}) == len(views)
    assert about["background"] == (background or None)
    assert ("background_meaning" in about) == bool(background)

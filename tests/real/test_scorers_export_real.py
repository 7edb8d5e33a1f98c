"""Scorers as ONNX on images of the real bottle, with ImageNet weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.parity import check_onnx
from toolkit.config import build_settings, settings_dict
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.methods.registry import method_class
from toolkit.runs.environment import seed_everything
from toolkit.runs.run import Run

FEW: dict[str, dict[str, Any]] = {
    "patchcore": {"coreset_size": 500},
    "patchcore+": {"coreset_size": 500, "synthetic_defects_count": 4},
    "padim": {},
    "feature-autoencoder": {"epochs": 2},
    "devnet": {"steps": 20, "synthetic_defects_count": 4},
}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
def test_export_agrees_on_good_and_defective_images(
    name: str, bottle_dir: Path, real_home: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(bottle_dir)
    split = make_plan(dataset, protocol="official").fold(dataset, 0)
    split = dataclasses.replace(split, train=split.train[:12], val=split.val[:2])
    cls = method_class(name)
    settings = build_settings(cls.Settings, {"image_size": 256, **FEW[name]}, source="test")
    run = Run.create(tmp_path, method=name, settings=settings_dict(settings), split={}, data={})
    seed_everything(0)
    cls(settings).fit(split, run)
    assert {s.is_defect for s in split.test[::20]} == {False, True}
    check_onnx(cls(settings).load(run), split.test[::20], tmp_path)

"""A report on all test images of the real bottle: small enough to send, and every image in it."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest

from tests.reporting import fake_runs
from toolkit.data.layouts import load_dataset
from toolkit.reporting.write import report

LIMIT = 20e6
METHODS = {"maps": ["map"], "all": ["map", "mask", "boxes", "classes"]}


@pytest.mark.slow
def test_all_folds_stay_under_20_mb(
    bottle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vl_convert", reason="the PyPI package vl-convert-python is not installed")
    monkeypatch.setattr(fake_runs, "HEAT", 224)
    dataset = load_dataset(bottle_dir)
    for entry, outputs in METHODS.items():
        for fold in range(5):
            fake_runs.make_run(
                tmp_path / "runs", dataset, entry=entry, outputs=outputs, fold=fold, folds=5
            )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # no run is left out, no image is missing
        path = report(tmp_path / "runs", tmp_path / "report.html")
    assert path.stat().st_size < LIMIT
    text = path.read_text(encoding="utf-8")
    assert str(bottle_dir) not in text
    found = re.search(r'id="gallery-data">(.*?)</script>', text)
    assert found is not None
    gallery = json.loads(found[1])
    assert len(gallery["images"]) == 83
    (group,) = gallery["groups"]
    assert len(group["methods"]) == len(METHODS)
    assert {item["id"] for item in group["items"]} == {s.id for s in dataset if s.part == "test"}

"""Exports that somebody made to harm."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import TinyRuns
from tests.trust.fuzz import _counted, fuzz, numbers, refused, work
from tests.trust.mutate import json_bytes, mutated, mutated_json
from toolkit.data.layouts import load_dataset

__all__ = ["_counted", "work"]


@pytest.fixture(scope="module")
def export(work: Path, tiny_runs: TinyRuns, sample_dir: Path) -> Path:
    from toolkit.inference.export import export_run
    from toolkit.methods.registry import load_method

    run = tiny_runs("padim")
    out = work / "export"
    export_run(run, load_method(run), load_dataset(sample_dir), out, say=lambda line: None)
    return out


@fuzz
@given(number=numbers, name=st.sampled_from(["manifest.json", "model.onnx"]))
def test_exports_of_strangers(work: Path, export: Path, number: int, name: str) -> None:
    """The checksums are right, as in an export that somebody made to harm."""
    from toolkit.data.types import file_sha256
    from toolkit.inference.model import load_model
    from toolkit.runtime.exported import Exported, ModelError
    from toolkit.verification.checksums import sealed

    changed = work / "changed-export"
    if not changed.exists():
        shutil.copytree(export, changed)
    record = json.loads((export / "manifest.json").read_bytes())
    if name == "model.onnx":
        (changed / name).write_bytes(mutated((export / name).read_bytes(), number))
        record["sha256"][name] = file_sha256(changed / name)
    else:
        shutil.copyfile(export / "model.onnx", changed / "model.onnx")
        record = mutated_json(record, number)
    if isinstance(record, dict):
        with contextlib.suppress(TypeError, ValueError):
            record = sealed(record)
    (changed / "manifest.json").write_bytes(json_bytes(record))
    with refused(ModelError):
        found = Exported.open(changed)
        answer = found.predict(np.zeros((48, 48, 3), np.uint8))
        found.decision(answer.score)
    with refused():
        load_model(changed).predict(np.zeros((48, 48, 3), np.uint8))[0].summary()

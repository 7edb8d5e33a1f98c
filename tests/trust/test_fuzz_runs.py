"""Mutated runs: their files, their calibration cards, their weights."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.line.conftest import card, grey_run, level, model
from tests.tiny import TinyRuns
from tests.trust.fuzz import RUN_FILES, _counted, fuzz, numbers, refused, whole_run, work
from tests.trust.mutate import json_bytes, mutated, mutated_json
from toolkit.data.layouts import load_dataset
from toolkit.runs.run import Run

__all__ = ["_counted", "card", "grey_run", "level", "model", "whole_run", "work"]


@pytest.mark.slow
@fuzz
@given(number=numbers, name=st.sampled_from(RUN_FILES), structured=st.booleans())
def test_files_of_runs(
    whole_run: Path,
    tiny_runs: TinyRuns,
    sample_dir: Path,
    number: int,
    name: str,
    structured: bool,
) -> None:
    from toolkit.leaderboards.board import FORMATS, leaderboard
    from toolkit.leaderboards.compare import compare_runs
    from toolkit.reporting.collect import collect_report
    from toolkit.runs.evaluate import evaluate, read_report
    from toolkit.verification.verify import verify

    source = tiny_runs("padim").path
    for one in RUN_FILES:
        shutil.copyfile(source / one, whole_run / one)
    content = (source / name).read_bytes()
    if not structured:
        content = mutated(content, number)
    elif name.endswith(".jsonl"):
        lines = content.splitlines()
        at = number % len(lines)
        lines[at] = json_bytes(mutated_json(json.loads(lines[at]), number))
        content = b"\n".join(lines)
    else:
        content = json_bytes(mutated_json(json.loads(content), number))
    (whole_run / name).write_bytes(content)
    with refused():
        board = leaderboard([whole_run])
        for form in FORMATS:
            with refused():
                board.render(form)
    with refused():
        run = Run.open(whole_run)
        read_report(run)
        evaluate(run)
    with refused():
        compare_runs((Run.open(whole_run), Run.open(source)), load_dataset(sample_dir))
    with refused():
        collect_report([whole_run])
    with refused():
        verify([whole_run])


@fuzz
@given(number=numbers, structured=st.booleans())
def test_cards_and_exports(
    work: Path, card: Path, number: int, structured: bool, model: Any
) -> None:
    from toolkit.decisions.card import CalibrationCard
    from toolkit.verification.checksums import sealed

    content = mutated(card.read_bytes(), number)
    if structured:
        record = mutated_json(json.loads(card.read_bytes()), number)
        with contextlib.suppress(TypeError, ValueError, AttributeError):
            record = sealed(record)
        content = json_bytes(record)
    (work / "card.json").write_bytes(content)
    with refused():
        found = CalibrationCard.read(work / "card.json")
        found.outcome(1.0)
        found.p_value(1.0)
        found.write(work / "again.json")


@fuzz
@given(number=numbers, structured=st.booleans())
def test_heads_of_safetensors(work: Path, number: int, structured: bool) -> None:
    import torch
    from safetensors.torch import save

    from toolkit.methods.classifier.checkpoint import read_best
    from toolkit.methods.sam.model import _read_safetensors
    from toolkit.weights.checkpoint import load_state_dict

    whole = save({"a": torch.zeros(2, 3), "b": torch.ones(4)}, {"sha256": "x", "model": "{}"})
    if structured:
        size = int.from_bytes(whole[:8], "little")
        head = json_bytes(mutated_json(json.loads(whole[8 : 8 + size]), number))
        whole = len(head).to_bytes(8, "little") + head + whole[8 + size :]
    else:
        whole = mutated(whole, number)
    path = work / "a.safetensors"
    path.write_bytes(whole)
    for read in (load_state_dict, read_best, _read_safetensors):
        with refused():
            read(path)


@fuzz
@given(number=numbers, name=st.sampled_from(["a.pt", "bare.pt"]))
def test_checkpoints(work: Path, number: int, name: str) -> None:
    import torch

    from toolkit.methods.classifier.checkpoint import read_last
    from toolkit.weights.checkpoint import load_state_dict

    data = io.BytesIO()
    torch.save(
        {"a": torch.zeros(2, 3), "epoch": 3}, data, _use_new_zipfile_serialization=name == "a.pt"
    )
    path = work / name
    path.write_bytes(mutated(data.getvalue(), number))
    for read in (load_state_dict, read_last):
        with refused():
            read(path)

"""Mutated command lines, settings and benchmark files."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trust.fuzz import YAML, _counted, data, fuzz, numbers, refused, whole_run, work
from tests.trust.mutate import json_bytes, mutated, mutated_json, mutated_words

__all__ = ["_counted", "data", "whole_run", "work"]


@fuzz
@given(number=numbers, structured=st.booleans())
def test_benchmark_files(work: Path, number: int, structured: bool) -> None:
    import yaml

    from toolkit.benchmarking.grid import read_benchmark, training_tasks
    from toolkit.benchmarking.plan import check_config

    path = work / "grid.yaml"
    if structured:
        content = json_bytes(mutated_json(yaml.safe_load(YAML), number))
    else:
        content = mutated(YAML.encode(), number)
    path.write_bytes(content)
    with refused():
        config = read_benchmark(str(path))
        check_config(config, device="cpu")
        if len(config.seeds) * len(config.entries) * config.n_folds < 10_000:
            training_tasks(config)


@fuzz
@given(number=numbers, method=st.sampled_from(["padim", "classifier", "sam", "yolo", "patchcore"]))
def test_settings(work: Path, number: int, method: str) -> None:
    from toolkit.config import settings_dict
    from toolkit.methods.registry import make_method, method_class
    from toolkit.training import read_method_config

    path = work / "settings.yaml"
    values = {"method": method, **settings_dict(method_class(method).Settings())}
    path.write_bytes(json_bytes(mutated_json(values, number)))
    with refused():
        named, found, source = read_method_config(str(path), {})
        make_method(named, found, source=source)


LINES = """\
dataset info DATA
dataset check DATA
dataset split DATA --protocol balanced --out OUT/s.json
convert --to yolo --data DATA --out OUT/yolo --images copy --image-size 32 --min-area 4
convert --to coco --data DATA --out OUT/coco --backgrounds 0.5 --preview 2 --overwrite
leaderboard RUNS --sort auroc --format json --columns auroc,image.ap
evaluate RUNS/padim/one
compare RUNS/padim/one RUNS/padim/one
verify RUNS
manifest DATA --out OUT/list --format jsonl
merge RUNS --out OUT/merged
weights list
cache list
cache clear features --yes
train padim --data DATA --protocol none --image-size 64
doctor --json
benchmark GRID --data NOWHERE
calibrate RUNS/none --good DATA
export RUNS/none --to onnx --out OUT/e
predict RUNS/none DATA --out OUT/p
report RUNS/none --out OUT/report.html
""".splitlines()


@pytest.mark.slow
@fuzz
@given(number=numbers, line=st.sampled_from(LINES))
def test_command_lines(work: Path, data: Path, whole_run: Path, number: int, line: str) -> None:
    from toolkit.cli.main import main

    (work / "grid.yaml").write_text(YAML)
    names = {"DATA": data, "OUT": work / "out", "RUNS": work / "runs", "GRID": work / "grid.yaml"}
    words = line.split()
    for name, place in names.items():
        words = [word.replace(name, str(place)) for word in words]
    # A whole disk may hold any number of runs, and takes as long as it takes.
    words = ["/dev" if word == "/" else word for word in mutated_words(words, number)]
    inside = work / "inside"
    shutil.rmtree(work / "out", ignore_errors=True)
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, refused():
        patch.chdir(inside)
        patch.setattr(sys, "argv", ["toolkit", *words])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            ended = _status(main)
    assert ended in (0, 1, 2), words
    assert "Traceback" not in error.getvalue(), words


def _status(command: Callable[[], object]) -> object:
    try:
        command()
    except SystemExit as ended:
        return ended.code
    return 0

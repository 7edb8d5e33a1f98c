"""`--list-tasks` and `toolkit task`: an array of processes makes the runs of a benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import run
from tests.leaderboards.standin import Grey, grey, write_grid  # noqa: F401
from toolkit.errors import ConfigError, RunError
from toolkit.files import read_json

TINY = {"weights": "none", "image_size": 64, "n_features": 10}
_PADIM = {"config": "padim/default", "overrides": TINY}


def _listed(*words: object) -> list[list[str]]:
    lines = run("benchmark", *words, "--list-tasks").stdout.splitlines()
    assert lines[0].split("\t") == ["number", "stage", "needs", "state", "run"]
    return [line.split("\t") for line in lines[1:]]


@pytest.fixture
def chain(tmp_path: Path, grey: None, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """Two folds of a method and of one that reads its runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Grey, "inputs", ("prompt_run",))
    methods: list[dict[str, Any]] = [{"name": "b", "prompt_run": "a"}, {"name": "a"}]
    return write_grid(tmp_path / "grid", methods, folds=[0, 1])


def test_numbers_needs_and_stages(chain: Path, sample_dir: Path) -> None:
    tasks = _listed(chain, "--data", sample_dir)
    assert [(t[0], t[1], t[2], Path(t[4]).name) for t in tasks] == [
        ("0", "0", "-", "a-fold0-seed0"),
        ("1", "1", "0", "b-fold0-seed0"),
        ("2", "0", "-", "a-fold1-seed0"),
        ("3", "1", "2", "b-fold1-seed0"),
    ]
    assert not Path("runs").exists(), "a list writes nothing"


def test_a_task_whose_need_is_open_is_refused_or_brings_it(chain: Path, sample_dir: Path) -> None:
    with pytest.raises(RunError, match=r"task 1 \(b-.*needs task 0 \(a-fold0-seed0\).*not finis"):
        run("task", chain, 1, "--data", sample_dir)
    assert run("task", chain, 1, "--data", sample_dir, "--with-needs").exit_code == 0
    assert Grey.fits == ["a-fold0-seed0", "b-fold0-seed0"]
    assert [t[3] for t in _listed(chain, "--data", sample_dir)] == ["finished"] * 2 + ["open"] * 2


def test_a_finished_one_is_left_alone_and_the_benchmark_takes_it(
    chain: Path, sample_dir: Path
) -> None:
    for number in (0, 0, 1):
        assert run("task", chain, number, "--data", sample_dir).exit_code == 0
    board = run("benchmark", chain, "--data", sample_dir)
    assert board.exit_code == 0
    assert len(Grey.fits) == 4, "two of four were there"


def test_no_such_number(chain: Path, sample_dir: Path) -> None:
    for number in (4, 99):
        with pytest.raises(ConfigError, match=f"task {number}: .* has tasks 0 to 3"):
            run("task", chain, number, "--data", sample_dir)


def test_a_broken_data_set_would_change_the_numbers(
    chain: Path, sample_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Exception, match="would have other numbers"):
        run("benchmark", chain, "--data", sample_dir, "--data", tmp_path / "empty", "--list-tasks")


def _grid(tmp_path: Path) -> Path:
    grid = tmp_path / "grid.yaml"
    methods = [{**_PADIM, "name": "a"}]
    grid.write_text(json.dumps({"name": "grid", "n_folds": 3, "folds": [0, 1], "methods": methods}))
    return grid


def _aurocs(runs: Path) -> dict[str, float]:
    files = sorted(runs.glob("grid/padim/*/metrics.json"))
    return {file.parent.name: read_json(file)["image"]["auroc"] for file in files}


@pytest.mark.slow
def test_the_same_metrics_from_a_loop_and_from_submitit(sample_dir: Path, tmp_path: Path) -> None:
    """The array of a Slurm cluster, on this machine: each task in a process of its own."""
    submitit = pytest.importorskip("submitit", reason="submitit is not installed")
    grid, data = _grid(tmp_path), ("--data", sample_dir)
    looped, arrayed = tmp_path / "looped", tmp_path / "arrayed"
    numbers = [int(t[0]) for t in _listed(grid, *data, "--runs", looped)]
    for number in numbers:
        assert run("task", grid, number, *data, "--runs", looped).exit_code == 0
    program = [sys.executable, "-c", "from toolkit.cli.main import main; main()"]
    words = ["task", str(grid), "--data", str(sample_dir), "--runs", str(arrayed)]
    executor = submitit.LocalExecutor(folder=tmp_path / "logs")
    executor.update_parameters(timeout_min=5)
    jobs = executor.map_array(subprocess.check_call, [[*program, *words, str(n)] for n in numbers])
    assert [job.result() for job in jobs] == [0, 0]
    assert _aurocs(looped).keys() == {"a-fold0-seed0", "a-fold1-seed0"}
    assert _aurocs(arrayed) == pytest.approx(_aurocs(looped), abs=1e-6)

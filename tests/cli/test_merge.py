"""`toolkit merge`: runs of two machines in one leaderboard; what does not fit is named."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import run
from tests.leaderboards.standin import Grey, grey, write_grid  # noqa: F401
from toolkit.errors import RunError
from toolkit.files import read_json, write_json


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, grey: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.chdir(tmp_path)


def _task(machine: str, number: int, data: Path, **keys: Any) -> Path:
    """Run one task of the same benchmark on a machine."""
    grid = write_grid(Path(machine) / "grid", [{"name": "a"}, {"name": "b"}], **keys)
    assert run("task", grid, number, "--data", data, "--runs", machine).exit_code == 0
    return Path(machine) / "small"


def _change(path: Path, **values: Any) -> None:
    """Change parts of a `run.json`; a key of two levels is written with two underscores."""
    record = read_json(path)
    for key, value in values.items():
        first, _, second = key.partition("__")
        if second:
            record[first][second] = value
        else:
            record[first] = value
    write_json(path, record)


def test_two_machines_make_one_leaderboard(sample_dir: Path) -> None:
    places = [_task("one", 0, sample_dir), _task("two", 1, sample_dir)]
    merged = run("merge", *places, "--out", "all/small")
    assert merged.exit_code == 0, merged.stderr
    assert "2 runs are in all/small" in merged.stderr
    assert "protocol supervised, fold 0" in merged.stdout
    assert sorted(p.name for p in Path("all/small/grey").iterdir()) == [
        "a-fold0-seed0",
        "b-fold0-seed0",
    ]
    grid = write_grid(Path("grid"), [{"name": "a"}, {"name": "b"}])
    fits = len(Grey.fits)
    assert run("benchmark", grid, "--data", sample_dir, "--runs", "all").exit_code == 0
    assert len(Grey.fits) == fits, "the joined folder can be resumed"
    again = run("merge", *places, "--out", "all/small")
    assert again.exit_code == 0
    assert "2 runs are in" in again.stderr


def test_a_run_reads_the_copy_of_what_it_was_made_with(
    sample_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grey, "inputs", ("prompt_run",))
    grid = write_grid(Path("grid"), [{"name": "a"}, {"name": "b", "prompt_run": "a"}])
    words = ("task", grid, 1, "--data", sample_dir, "--runs", "far", "--with-needs")
    assert run(*words).exit_code == 0
    assert run("merge", "far/small", "--out", "all").exit_code == 0
    shutil.rmtree("far")
    stored = read_json(Path("all/grey/b-fold0-seed0/run.json"))["inputs"]["prompt_run"]
    assert stored == str(Path("all/grey/a-fold0-seed0").resolve())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split__hash": "0123"}, "split 0123, not .* with the same split"),
        ({"data__fingerprint": "4567"}, "was made with other data than"),
        ({"schema": 1}, "of schema 1, made by an older"),
        ({"environment__toolkit": "0.0.9"}, "made by version 0.0.9 of inspection-toolkit, not"),
    ],
)
def test_what_does_not_fit_is_named(sample_dir: Path, change: dict[str, Any], said: str) -> None:
    places = [_task("one", 0, sample_dir), _task("two", 1, sample_dir)]
    _change(places[1] / "grey/b-fold0-seed0/run.json", **change)
    merged = run("merge", *places)
    assert merged.exit_code == 1
    (line,) = [one for one in merged.stderr.splitlines() if one.startswith("left out: ")]
    assert line.startswith("left out: two/small/grey/b-fold0-seed0")
    assert re.search(said, line), line
    assert "a" in merged.stdout
    assert not Path("runs/merged/grey/b-fold0-seed0").exists()


def test_two_different_runs_of_one_name(sample_dir: Path) -> None:
    places = [_task("one", 0, sample_dir), _task("two", 0, sample_dir)]
    _change(places[1] / "grey/a-fold0-seed0/run.json", settings__offset=9.0)
    merged = run("merge", *places)
    assert merged.exit_code == 1
    assert "another run than one/small/grey/a-fold0-seed0 of the same name" in merged.stderr


def test_an_unfinished_run_is_left_out(sample_dir: Path) -> None:
    place = _task("one", 0, sample_dir)
    (place / "grey/a-fold0-seed0/metrics.json").unlink()
    merged = run("merge", place)
    assert merged.exit_code == 2
    assert "a-fold0-seed0: not finished" in merged.stderr


def test_no_runs_there() -> None:
    Path("empty").mkdir()
    for place, said in (("nowhere", "no such folder"), ("empty", "no run there")):
        with pytest.raises(RunError, match=said):
            run("merge", place)

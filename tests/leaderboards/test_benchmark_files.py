"""Files beside the runs of a benchmark: pooled metrics that need no data, display settings."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.leaderboards.standin import grey, write_grid  # noqa: F401
from toolkit.benchmarking.study import BenchmarkResult, benchmark
from toolkit.errors import RunError
from toolkit.files import read_json, write_json
from toolkit.leaderboards import benchmark_files
from toolkit.leaderboards.benchmark_files import Display, read_display, write_display
from toolkit.leaderboards.board import leaderboard

pytestmark = pytest.mark.usefixtures("grey")


@pytest.fixture
def data(sample_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sample_dir, tmp_path / "data" / sample_dir.name)


@pytest.fixture
def result(data: Path, tmp_path: Path) -> BenchmarkResult:
    methods = [{"name": "a"}, {"name": "b", "overrides": {"gives": []}}]
    return benchmark(write_grid(tmp_path / "grid", methods, folds=[0, 1]), data, runs=tmp_path)


def test_the_leaderboard_needs_no_data(result: BenchmarkResult, data: Path, tmp_path: Path) -> None:
    before = leaderboard(tmp_path / "small")
    shutil.rmtree(data)
    board = leaderboard(tmp_path / "small")
    assert board.left_out == ()
    assert [row.entry for row in board.rows] == [row.entry for row in before.rows]
    assert [row.values for row in board.rows] == [row.values for row in before.rows]
    assert "folds 0, 1 pooled" in str(board)


def test_metrics_that_were_missing_are_stored(
    result: BenchmarkResult, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "small/pooled_metrics.json"
    stored = file.read_bytes()
    file.unlink()
    leaderboard(tmp_path / "small")
    assert read_json(file)["entries"].keys() == read_json_bytes(stored)["entries"].keys()
    shutil.rmtree(data)
    assert leaderboard(tmp_path / "small").left_out == ()


def read_json_bytes(content: bytes) -> dict[str, dict[str, object]]:
    import json

    found: dict[str, dict[str, object]] = json.loads(content)
    return found


def test_out_of_date_metrics_are_computed_again_or_named(
    result: BenchmarkResult, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = result.runs[0]
    run.finish({**run.metrics(), "changed": 1})
    calls = []
    evaluate = benchmark_files.evaluate
    monkeypatch.setattr(
        benchmark_files, "evaluate", lambda *args, part: (calls.append(args), evaluate(*args))[1]
    )
    assert leaderboard(tmp_path / "small").left_out == ()
    assert len(calls) == 1  # of the one entry
    leaderboard(tmp_path / "small")
    assert len(calls) == 1
    run.finish({**run.metrics(), "changed": 2})
    shutil.rmtree(data)
    board = leaderboard(tmp_path / "small")
    (line,) = board.left_out
    assert "pooled_metrics.json: out of date" in line
    assert "no such folder" in line
    assert "\n" not in line
    assert len(board.rows) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 9, "entries": {}}', '{"schema": 1}'])
def test_damaged_pooled_metrics_are_computed_again(
    result: BenchmarkResult, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "small/pooled_metrics.json"
    file.write_text(content)
    assert leaderboard(tmp_path / "small").left_out == ()
    assert len(read_json(file)["entries"]) == 2


def test_runs_stay_as_they_are(result: BenchmarkResult, tmp_path: Path) -> None:
    def state() -> dict[Path, int]:
        return {f: f.stat().st_mtime_ns for run in result for f in run.path.rglob("*")}

    before = state()
    methods = [{"name": "a", "published": 0.5}, {"name": "b", "overrides": {"gives": []}}]
    grid = write_grid(tmp_path / "grid", methods, folds=[0, 1], columns=["ap", "published"])
    benchmark(grid, result.runs[0].record["data"]["root"], runs=tmp_path)
    board = leaderboard(tmp_path / "small")
    assert board.groups[0].columns == ("ap", "published")
    assert {row.entry: row.published for row in board.rows} == {"a": {"value": 0.5}, "b": None}
    assert state() == before


def test_display_settings_of_two_benchmark_files_are_kept(tmp_path: Path) -> None:
    published = {"value": 0.5, "source": "someone"}
    write_display(tmp_path, {"a": Display(("auroc",), published), "b": Display()})
    write_display(tmp_path, {"b": Display(("ap",)), "c": Display()})
    assert read_display(tmp_path) == {
        "a": Display(("auroc",), published),
        "b": Display(("ap",)),
        "c": Display(),
    }
    assert read_display(tmp_path / "none") == {}


@pytest.mark.parametrize(
    "entries", [[], {"a": []}, {"a": {"columns": "ap"}}, {"a": {"columns": [], "published": 1}}]
)
def test_damaged_display_settings_are_one_line(
    result: BenchmarkResult, tmp_path: Path, entries: object
) -> None:
    write_json(tmp_path / "small/benchmark.json", {"schema": 1, "entries": entries})
    with pytest.raises(RunError, match="damaged"):
        read_display(tmp_path / "small")
    board = leaderboard(tmp_path / "small")
    assert len(board.rows) == 2
    (line,) = board.left_out
    assert "benchmark.json: damaged" in line

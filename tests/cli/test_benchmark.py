"""`toolkit benchmark` and `toolkit demo`: exit status, going on, and the table that is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.leaderboards.standin import Grey, grey, write_grid  # noqa: F401
from toolkit.cli.main import app
from toolkit.errors import ToolkitError
from toolkit.runs.profile import PHASES

pytestmark = pytest.mark.usefixtures("grey")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(data: Path, methods: list[dict[str, Any]], **keys: Any) -> Any:
    grid = write_grid(Path("grid"), methods, **keys)
    result = CliRunner().invoke(app, ["benchmark", str(grid), "--data", str(data)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_all_finished(sample_dir: Path) -> None:
    result = run(sample_dir, [{"name": "a"}, {"name": "b", "overrides": {"gives": ["boxes"]}}])
    assert result.exit_code == 0
    assert "protocol supervised, fold 0" in result.stdout
    assert "8 test images (6 defective)" in result.stdout
    assert ": predict" not in result.stdout, "progress belongs to standard error"
    assert "[2/2] b-fold0-seed0" in result.stderr
    assert Path("runs/small/split.json").is_file()


def test_profile_prints_where_the_time_went(sample_dir: Path) -> None:
    grid = write_grid(Path("grid"), [{"name": "[red]a"}, {"name": "b"}], folds="all")
    result = CliRunner().invoke(
        app, ["benchmark", str(grid), "--data", str(sample_dir), "--profile"]
    )
    assert result.exit_code == 0
    lines = result.stdout.rsplit("seconds\n", 1)[1].split("\n")
    heading, *rows = [line.split() for line in lines if line.strip(" ─")]
    assert heading == ["entry", "runs", *PHASES, "sum", "share"]
    assert sorted(row[:2] for row in rows) == [["[red]a", "3"], ["b", "3"]]


def test_again_runs_nothing_and_prints_the_same(sample_dir: Path) -> None:
    methods = [{"name": "a"}, {"name": "b"}]
    first = run(sample_dir, methods, folds="all")
    assert len(Grey.fits) == 6
    again = run(sample_dir, methods, folds="all")
    assert len(Grey.fits) == 6
    assert again.stdout == first.stdout
    assert "folds 0, 1, 2 pooled" in again.stdout
    assert "24 test images" in again.stdout


@pytest.mark.parametrize(
    ("methods", "status"),
    [
        ([{"name": "a"}, {"name": "bad", "overrides": {"fail": "fit"}}], 1),
        ([{"name": "bad", "overrides": {"fail": "fit"}}, {"name": "a"}], 1),  # in any order
        ([{"name": "bad", "overrides": {"fail": "fit"}}], 2),
        ([{"name": "bad", "overrides": {"fail": "predict"}}], 2),
    ],
)
def test_exit_status(sample_dir: Path, methods: list[dict[str, Any]], status: int) -> None:
    result = run(sample_dir, methods)
    assert result.exit_code == status
    assert ("AUROC" in result.stdout) == (status == 1)
    assert "toolkit: grey: cannot" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_mended_method_is_all_that_runs_again(
    sample_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = [{"name": "a"}, {"name": "b"}]
    load = Grey.load

    def stops_at_b(self: Grey, run: Any) -> Any:
        if run.metadata["entry"] == "b":
            raise ToolkitError("b: cannot; fix it")
        return load(self, run)

    with monkeypatch.context() as patch:
        patch.setattr(Grey, "load", stops_at_b)
        assert run(sample_dir, methods).exit_code == 1
    assert run(sample_dir, methods).exit_code == 0
    assert Grey.fits == ["a-fold0-seed0", "b-fold0-seed0", "b-fold0-seed0"]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"overrides": {"ofset": 1}}, "did you mean 'offset'"),
        ({"overides": {"offset": 1}}, "did you mean 'overrides'"),
        ({"config": "gery"}, "gery: no such config"),
        ({"prompt_run": "b"}, "prompt_run: b is not there"),
    ],
)
def test_a_wrong_file_writes_nothing(sample_dir: Path, method: dict[str, Any], said: str) -> None:
    with pytest.raises(ToolkitError, match=said):
        run(sample_dir, [{"name": "a", **method}])
    assert not Path("runs").exists()


def test_unknown_method(sample_dir: Path) -> None:
    Path("config.yaml").write_text("method: grei\n")
    with pytest.raises(ToolkitError, match="method grei: unknown; did you mean 'grey'"):
        run(sample_dir, [{"config": "config.yaml"}])
    assert not Path("runs").exists()


def test_seeds_stand_in_one_row_and_can_be_told_apart(sample_dir: Path) -> None:
    text = " ".join(run(sample_dir, [{"name": "a"}], seeds=[0, 4]).stdout.split())
    assert "±" in text
    each = CliRunner().invoke(app, ["leaderboard", "runs", "--seeds", "each"])
    text = " ".join(each.stdout.split())
    assert "a, seed 0, a, seed 4: score" in text


@pytest.mark.slow  # makes and converts the default sample
def test_the_demo_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its benchmark file is read, its sample converted; the training itself is stood in for."""
    from toolkit.benchmarking import grid
    from toolkit.cli import benchmark

    seen: list[Any] = []
    monkeypatch.setattr(
        benchmark, "benchmark_command", lambda config, **keys: seen.append((config, keys))
    )
    result = CliRunner().invoke(app, ["demo", "--runs", "r", "--out", "c"])
    assert result.exit_code == 0, result.output
    ((config, keys),) = seen
    assert {entry.method for entry in grid.read_benchmark(config).entries} == {
        "classifier", "patchcore", "sam", "yolo", "yolo-world",
    }  # fmt: skip
    (folder,) = keys["data"]
    assert (Path(folder) / "train/good").is_dir()
    assert sorted(f.name.rsplit("-", 1)[1] for f in Path("c").iterdir()) == ["sam", "yolo"]

"""`toolkit leaderboard` and `toolkit evaluate`: from what is stored, and again the same."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.leaderboard.standin import Grey, grey, write_grid  # noqa: F401
from toolkit.cli.main import app
from toolkit.errors import ToolkitError

pytestmark = pytest.mark.usefixtures("grey")
RUN = Path("runs/small/grey/a-fold0-seed0")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: object) -> Any:
    result = CliRunner().invoke(app, [str(w) for w in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def printed(sample_dir: Path, grey: type[Grey]) -> str:  # noqa: F811
    """Run a small benchmark; return what it printed."""
    methods = [{"name": "a"}, {"name": "b", "set": {"gives": []}}]
    grid = write_grid(Path("grid"), methods, folds=[0, 1])
    return str(run("benchmark", grid, "--data", sample_dir).stdout)


def test_prints_what_the_benchmark_printed(printed: str) -> None:
    assert "AUROC" in printed
    assert run("leaderboard").stdout == printed
    assert run("leaderboard", "runs/small").stdout == printed
    table = [line for line in printed.splitlines() if line.startswith((" a ", "a ", "b ", " b "))]
    assert len(table) == 2
    assert max(map(len, table)) <= 118
    b = next(line for line in table if line.strip().startswith("b"))
    a = next(line for line in table if line.strip().startswith("a"))
    assert b.split().count("-") == 4  # no boxes, masks or maps
    assert a.split().count("-") == 0


@pytest.mark.usefixtures("printed")
def test_forms_agree() -> None:
    board = json.loads(run("leaderboard", "--format", "json").stdout)
    rows = list(csv.DictReader(io.StringIO(run("leaderboard", "--format", "csv").stdout)))
    (group,) = board["groups"]
    assert [r["method"] for r in rows] == [r["entry"] for r in group["rows"]]
    for row, record in zip(group["rows"], rows, strict=True):
        assert float(record["auroc"]) == row["values"]["auroc"]
    b = next(r for r in rows if r["method"] == "b")
    assert b["map50"] == b["mask_iou"] == ""
    markdown = run("leaderboard", "--format", "markdown").stdout
    assert markdown.startswith("### sample: protocol supervised, folds 0, 1 pooled")
    with pytest.raises(ToolkitError, match="did you mean 'json'"):
        run("leaderboard", "--format", "jsn")


@pytest.mark.usefixtures("printed")
@pytest.mark.parametrize("form", ["table", "markdown", "csv", "json"])
def test_a_damaged_run_is_named_and_the_rest_shown(form: str) -> None:
    for fold in (0, 1):
        Path(f"runs/small/grey/a-fold{fold}-seed0/metrics.json").write_text("{}")
    result = run("leaderboard", "--format", form)
    assert result.exit_code == 1
    assert "metrics.json: damaged" in (result.stderr if form == "csv" else result.stdout)
    if form == "csv":
        assert [r["method"] for r in csv.DictReader(io.StringIO(result.stdout))] == ["b"]


@pytest.mark.usefixtures("printed")
def test_evaluate_twice_gives_the_same_bytes() -> None:
    first = (RUN / "metrics.json").read_bytes()
    for _ in range(2):
        result = run("evaluate", RUN)
        assert result.exit_code == 0
        assert "AUROC" in result.stdout
        assert (RUN / "metrics.json").read_bytes() == first
    (RUN / "metrics.json").unlink()
    run("evaluate", RUN)
    assert (RUN / "metrics.json").read_bytes() == first


@pytest.mark.usefixtures("printed")
def test_evaluate_needs_the_data_of_the_run(sample_dir: Path) -> None:
    first = (RUN / "metrics.json").read_bytes()
    moved = shutil.copytree(sample_dir, "elsewhere")
    assert run("evaluate", RUN, "--data", moved).exit_code == 0
    assert (RUN / "metrics.json").read_bytes() == first
    masks = sorted((Path(moved) / "ground_truth").rglob("*.png"))
    shutil.copyfile(masks[0], masks[1])
    with pytest.raises(ToolkitError, match="not the data of this run"):
        run("evaluate", RUN, "--data", moved)
    assert (RUN / "metrics.json").read_bytes() == first


@pytest.mark.usefixtures("printed")
def test_evaluate_without_predictions() -> None:
    shutil.rmtree(RUN / "predictions")
    with pytest.raises(ToolkitError, match="no stored predictions"):
        run("evaluate", RUN)

"""`toolkit leaderboard` and `toolkit evaluate`: from what is stored, and again the same."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import run
from tests.leaderboards.standin import Grey, grey, write_grid  # noqa: F401
from toolkit.errors import ToolkitError
from toolkit.methods import registry

pytestmark = pytest.mark.usefixtures("grey")
RUN = Path("runs/small/grey/a-fold0-seed0")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def made(sample_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A small benchmark: its folder, and what it printed. Each test has a copy of the folder."""
    folder = tmp_path_factory.mktemp("made")
    methods = [{"name": "a"}, {"name": "b", "overrides": {"gives": []}}]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TOOLKIT_HOME", str(tmp_path_factory.mktemp("home")))
        table = {**registry._BUILT_IN, "grey": f"{Grey.__module__}:Grey"}
        patch.setattr(registry, "_BUILT_IN", table)
        patch.setattr(Grey, "fits", [])
        grid = write_grid(Path("grid"), methods, folds=[0, 1])
        return folder, str(run("benchmark", grid, "--data", sample_dir).stdout)


@pytest.fixture
def printed(made: tuple[Path, str]) -> str:
    """Copy the benchmark to the working folder; return what it printed."""
    folder, text = made
    shutil.copytree(folder, Path.cwd(), dirs_exist_ok=True)
    return text


def test_prints_what_the_benchmark_printed(printed: str) -> None:
    assert "AUROC" in printed
    assert run("leaderboard").stdout == printed
    assert run("leaderboard", "runs/small").stdout == printed
    table = [line for line in printed.splitlines() if line.split()[1:2] in (["a"], ["b"])]
    assert len(table) == 2
    assert max(map(len, table)) <= 118
    b = next(line for line in table if line.split()[1] == "b")
    a = next(line for line in table if line.split()[1] == "a")
    assert b.split()[2:].count("-") == 4  # no boxes, masks or maps
    assert a.split()[2:].count("-") == 0


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
    result = run("evaluate", RUN, "--data", moved)
    assert result.exit_code == 1
    assert "not the data of this run" in result.stderr
    assert (RUN / "metrics.json").read_bytes() == first


@pytest.mark.usefixtures("printed")
def test_evaluate_names_what_it_leaves_out_and_goes_on() -> None:
    other = RUN.with_name("b-fold0-seed0")
    wanted = (other / "metrics.json").read_bytes()
    (other / "metrics.json").unlink()
    shutil.rmtree(RUN / "predictions")
    result = run("evaluate", RUN.parent)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("left out")]
    assert "a-fold0-seed0/predictions/test.jsonl: no stored predictions" in line
    assert (other / "metrics.json").read_bytes() == wanted
    assert result.stdout.count("AUROC") >= 3  # of the three others


@pytest.mark.usefixtures("printed")
def test_columns_are_known_names_or_paths() -> None:
    text = run("leaderboard", "--columns", "ap,report.trained_on,pixel.aupro.0.05").stdout
    heads = next(line for line in text.splitlines() if "method" in line).split()
    assert heads == ["#", "method", "AP", "trained_on", "AUPRO@5%"]
    # folds 0 and 1 train on the same number of images
    trained = json.loads((RUN / "metrics.json").read_text())["report"]["trained_on"]
    assert f" {trained:.3f} " in text
    with pytest.raises(ToolkitError, match="did you mean 'mask_iou'"):
        run("leaderboard", "--columns", "auroc,mask_io")
    with pytest.raises(ToolkitError, match=r"did you mean 'report.trained_on'"):
        run("leaderboard", "--columns", "report.trained")
    with pytest.raises(ToolkitError, match="did you mean 'auroc'"):
        run("leaderboard", "--sort", "aurok")
    with pytest.raises(ToolkitError, match="holds words"):
        run("leaderboard", "--sort", "labels")


def test_the_benchmark_names_columns_and_published_figures(
    sample_dir: Path,
    grey: type[Grey],  # noqa: F811
) -> None:
    methods = [
        {
            "name": "a",
            "published": {"value": 0.75, "source": "someone, 2021", "column": "accuracy"},
        },
        {"name": "b", "published": 0.5},
        {"name": "c"},
    ]
    columns = ["accuracy", "published", "report.trained_on"]
    grid = write_grid(Path("grid"), methods, folds=[0], columns=columns)
    printed = run("benchmark", grid, "--data", sample_dir).stdout
    assert run("leaderboard").stdout == printed
    lines = [line.split() for line in printed.splitlines() if "[" in line and "#" not in line]
    table = {words[1]: words for words in lines}
    assert {name: cells[-2] for name, cells in table.items()} == {
        "a": "0.750", "b": "0.500", "c": "-",
    }  # fmt: skip
    assert "a: published 0.750 as acc (someone, 2021)" in printed
    # Only what is shown has changed: nothing is run again, and the new columns hold.
    fits = list(grey.fits)
    write_grid(Path("grid"), methods[1:], folds=[0], columns=["ap"])
    again = run("benchmark", grid, "--data", sample_dir).stdout
    assert grey.fits == fits
    assert next(x for x in again.splitlines() if "method" in x).split() == ["#", "method", "AP"]


@pytest.mark.parametrize(
    ("keys", "entry", "said"),
    [
        ({"columns": ["acuracy"]}, {}, "no column acuracy; did you mean 'accuracy'"),
        ({}, {"published": "high"}, "'high' of .* is no number"),
        ({}, {"published": {"source": "x"}}, "None of .* is no number"),
        ({}, {"published": {"value": 1, "from": "x"}}, "unknown key 'from'"),
        ({}, {"published": {"value": 1, "column": "acuracy"}}, "did you mean 'accuracy'"),
        ({}, {"published": float("nan")}, "is no number"),
    ],
)
def test_slips_in_the_benchmark_file(
    sample_dir: Path, keys: dict[str, Any], entry: dict[str, Any], said: str
) -> None:
    grid = write_grid(Path("grid"), [{"name": "a", **entry}], **keys)
    with pytest.raises(ToolkitError, match=said):
        run("benchmark", grid, "--data", sample_dir)


@pytest.mark.usefixtures("printed")
@pytest.mark.parametrize("command", ["leaderboard", "evaluate"])
def test_a_damaged_byte_leaves_one_run_out(command: str) -> None:
    for fold in (0, 1):
        file = Path(f"runs/small/grey/a-fold{fold}-seed0/predictions/test.jsonl")
        file.write_bytes(file.read_bytes().replace(b"id", b"\xff", 1))
    result = run(command, "runs")
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("left out")]
    assert len(lines) == 2
    assert all("test.jsonl: line 1 is damaged" in line for line in lines)
    assert "grey/a-fold" not in result.stdout.replace("left out", "") or command == "leaderboard"
    assert " b " in result.stdout


@pytest.mark.usefixtures("printed")
def test_compare_with_a_damaged_run_is_one_line() -> None:
    file = RUN / "predictions/test.jsonl"
    file.write_bytes(file.read_bytes().replace(b"id", b"\xff", 1))
    with pytest.raises(ToolkitError, match=r"test\.jsonl: line 1 is damaged"):
        run("compare", RUN, RUN.with_name("b-fold0-seed0"))


@pytest.mark.usefixtures("printed")
def test_ranks_follow_the_sorted_column() -> None:
    board = json.loads(run("leaderboard", "--format", "json", "--sort", "latency").stdout)
    (group,) = board["groups"]
    latencies = [row["values"]["latency"] for row in group["rows"]]
    assert latencies == sorted(latencies)
    assert [row["rank"] for row in group["rows"]] == [1, 2]
    assert not any(row["in_top_group"] for row in group["rows"])


def test_the_leaderboard_needs_no_data(sample_dir: Path) -> None:
    data = shutil.copytree(sample_dir, Path("data") / sample_dir.name)
    grid = write_grid(Path("grid"), [{"name": "a"}], folds=[0, 1])
    printed = run("benchmark", grid, "--data", data).stdout
    shutil.rmtree(data)
    result = run("leaderboard")
    assert result.exit_code == 0
    assert result.stdout == printed
    assert "folds 0, 1 pooled" in printed

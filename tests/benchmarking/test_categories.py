"""A benchmark of several data sets in one run, and its table."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.command import run as command
from tests.leaderboards.standin import Grey, grey, write_grid  # noqa: F401
from toolkit.benchmarking.grid import read_benchmark
from toolkit.benchmarking.study import benchmark
from toolkit.errors import DataError
from toolkit.leaderboards.board import leaderboard
from toolkit.leaderboards.overview import Overview, OverviewRow
from toolkit.leaderboards.overview_render import notes
from toolkit.metrics.values import Undefined

pytestmark = pytest.mark.usefixtures("grey")
METHODS: list[dict[str, Any]] = [
    {"name": "a"},
    {"name": "b", "overrides": {"gives": ["map"]}},
]


@pytest.fixture
def several(sample_dir: Path, tmp_path: Path) -> Path:
    """A folder of two data sets, and a folder without images."""
    for name in ("nut", "bolt"):
        shutil.copytree(sample_dir, tmp_path / "all" / name)
    next((tmp_path / "all/bolt/train/good").iterdir()).unlink()  # the two are not the same data
    (tmp_path / "all/tables").mkdir()
    return tmp_path / "all"


def run_on(folder: Path, data: Any, **keys: Any) -> Any:
    return benchmark(read_benchmark(str(write_grid(folder, METHODS, **keys))), data, runs=folder)


def test_one_folder_of_several(several: Path, tmp_path: Path) -> None:
    result = run_on(tmp_path, several)
    assert result.errors == ()
    places = [run.path.relative_to(tmp_path / "small").as_posix() for run in result]
    assert places == [f"{c}/grey/{m}-fold0-seed0" for c in ("bolt", "nut") for m in "ab"]
    assert (tmp_path / "small/nut/split.json").is_file()


def test_a_list_resumes_and_grows(several: Path, tmp_path: Path) -> None:
    run_on(tmp_path, [several / "nut"])
    run_on(tmp_path, [several / "nut", str(several / "bolt")])
    assert len(Grey.fits) == 6
    run_on(tmp_path, [several / "nut", several / "bolt"])
    assert len(Grey.fits) == 6


def test_one_data_set_has_no_sub_folder(sample_dir: Path, tmp_path: Path) -> None:
    for data in (sample_dir, [sample_dir]):
        assert run_on(tmp_path, data).runs[0].path.parent.parent == tmp_path / "small"
    assert len(Grey.fits) == 2


def test_equal_names(several: Path, tmp_path: Path) -> None:
    shutil.copytree(several / "nut", tmp_path / "other/Nut")
    with pytest.raises(DataError, match="two data sets of the same name; rename"):
        run_on(tmp_path, [several, tmp_path / "other/Nut"])
    assert not Grey.fits


def test_broken_category(several: Path, tmp_path: Path) -> None:
    (several / "screw/pictures").mkdir(parents=True)
    image = next((several / "nut/train/good").iterdir())
    shutil.copy(image, several / "screw/pictures")
    image.write_bytes(b"")
    result = run_on(tmp_path, several)
    assert {run.record["data"]["name"] for run in result} == {"bolt"}
    assert [str(error).split(":")[0] for error in result.errors] == ["nut", "screw"]
    with pytest.raises(DataError):
        run_on(tmp_path, [several / "nut", several / "screw"])


def test_another_split_is_left_out(several: Path, tmp_path: Path) -> None:
    run_on(tmp_path, several)
    (several / "nut/test/good").joinpath("extra.png").write_bytes(
        next((several / "nut/test/good").iterdir()).read_bytes()
    )
    result = run_on(tmp_path, several)
    assert {run.record["data"]["name"] for run in result} == {"bolt"}
    assert "another split" in str(result.errors[0])


def test_overview(several: Path, tmp_path: Path) -> None:
    board = leaderboard(run_on(tmp_path, several).runs)
    (overview,) = board.overviews
    assert overview.categories == ("bolt", "nut")
    assert {row.name for row in overview.rows} == {"a", "b"}
    for row in overview.rows:
        assert row.mean == pytest.approx(np.mean(list(row.values.values())))
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.mean <= row.high
        assert row.mean_rank == 1.0
        assert (row.wins, row.ties) == (0, 2)
    assert "AUROC on 2 categories" in str(board)
    assert "nut: protocol" not in str(board)
    whole = str(leaderboard(tmp_path / "small", by_category=True))
    assert "bolt: protocol" in whole
    assert "nut: protocol" in whole


def test_mean_interval_is_narrower_than_one_category(several: Path, tmp_path: Path) -> None:
    """Equal data in two categories is drawn independently, so the mean varies less."""
    board = leaderboard(run_on(tmp_path, several, folds="all").runs)
    row = board.overviews[0].rows[0]
    single = board.groups[0].rows[0].intervals["auroc"]
    assert row.low is not None
    assert row.high is not None
    assert 0.5 < (row.high - row.low) / (single["high"] - single["low"]) < 0.9


def test_a_method_without_one_category_has_no_mean(several: Path, tmp_path: Path) -> None:
    run_on(tmp_path, several)
    shutil.rmtree(tmp_path / "small/nut/grey/b-fold0-seed0")
    board = leaderboard(tmp_path / "small")
    assert [row.name for row in board.overviews[0].rows] == ["a", "b"]
    assert "b: no mean (no value for nut)" in str(board)


def test_a_method_without_any_value_is_named_below_the_table() -> None:
    row = OverviewRow("a", "grey", {"x": 0.5, "y": 0.7}, (), 0.6, None, None, 0, 0, 1.0)
    nothing = Undefined("not run")
    empty = replace(row, name="b", values={"x": nothing, "y": nothing}, mean=nothing)
    some = replace(row, name="c", values={"x": nothing, "y": 0.1}, mean=nothing)
    overview = Overview((), "auroc", (row, some, empty))
    assert overview.displayed == (row, some)
    assert notes(overview) == ["c: no mean (not run)", "no value in any category: b"]
    assert replace(overview, rows=(empty,)).displayed == (empty,)


def test_formats(several: Path, tmp_path: Path) -> None:
    board = leaderboard(run_on(tmp_path, several).runs)
    rows = list(csv.DictReader(board.render("csv").splitlines()))
    assert [row["method"] for row in rows] == ["a", "b"]
    assert float(rows[0]["mean"]) == board.overviews[0].rows[0].mean
    content = json.loads(board.render("json"))
    assert content["overviews"][0]["categories"] == ["bolt", "nut"]
    assert len(content["groups"]) == 2
    assert "| method | bolt | nut | mean | wins | ties | rank |" in board.to_markdown()
    assert '<th scope="col" class="n">bolt</th>' in board.render("html")


def test_short_markdown_has_the_table_and_no_legend(several: Path, tmp_path: Path) -> None:
    board = leaderboard(run_on(tmp_path, several).runs)
    short = board.to_short_markdown()
    assert short.startswith("**AUROC on 2 categories")
    assert [line for line in board.to_markdown().splitlines() if line[:1] == "|"] == [
        line for line in short.splitlines() if line[:1] == "|"
    ]
    assert "Each category's own table" not in short
    by_category = leaderboard(tmp_path / "small", by_category=True).to_short_markdown()
    assert "**bolt: protocol" in by_category


def test_published_rows(several: Path, tmp_path: Path) -> None:
    (several / "nut").rename(several / "screw")
    (several / "bolt").rename(several / "transistor")
    board = leaderboard(run_on(tmp_path, several).runs, published=True)
    row = next(one for one in board.overviews[0].published if one.name == "PatchCore WRN50")
    assert row.values == {"screw": 0.988, "transistor": 0.999}
    assert row.mean == pytest.approx(0.9935)
    assert "PatchCore WRN50: published, not measured here" in str(board)


def test_commands(several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    grid = write_grid(tmp_path, METHODS)
    done = command("benchmark", grid, "--data", several / "nut", "--data", several / "bolt")
    assert done.exit_code == 0
    assert "AUROC on 2 categories" in done.stdout
    assert "nut: [1/2] a-fold0-seed0" in done.stderr
    assert "nut: protocol" in command("leaderboard", "runs", "--by-category").stdout
    assert "AP on 2 categories" in command("leaderboard", "runs", "--sort", "ap").stdout
    next((several / "nut/train/good").iterdir()).write_bytes(b"")
    assert command("benchmark", grid, "--data", several).exit_code == 1


def test_mixed_images_and_missing_masks(sample_dir: Path, tmp_path: Path) -> None:
    """Ten sizes, grey beside colour, no masks, two defects: what can run runs."""
    import cv2

    mixed = tmp_path / "all/mixed"
    for number, path in enumerate(sorted((sample_dir / "train/good").iterdir())[:10]):
        target = mixed / f"train/good/{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE if number % 2 else cv2.IMREAD_COLOR)
        cv2.imwrite(str(target), cv2.resize(image, (100 + number, 90)))
    for name in ("good/0", "good/1", "dent/0", "dent/1"):
        (mixed / f"test/{name}.png").parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(mixed / "train/good/0.png", mixed / f"test/{name}.png")
    shutil.copytree(sample_dir, tmp_path / "all/nut")
    result = run_on(tmp_path, tmp_path / "all", protocol="official")
    assert result.errors == ()
    assert {run.record["data"]["name"] for run in result} == {"mixed", "nut"}
    mixed_run = next(run for run in result if run.record["data"]["name"] == "mixed")
    assert "pixel" not in mixed_run.metrics()
    few = run_on(tmp_path / "folds", tmp_path / "all")
    assert [str(error) for error in few.errors if "class dent has" in str(error)]
    assert {run.record["data"]["name"] for run in few} == {"nut"}

"""The label-budget study: which entry runs with how many defects, and what its runs say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.leaderboard.standin import Grey, grey, write_grid  # noqa: F401
from toolkit.benchmark.budget import budgets_of, left_out, parse_budgets
from toolkit.benchmark.grid import expand, read_grid
from toolkit.benchmark.study import run_grid
from toolkit.data.layouts import read_dataset
from toolkit.data.splits import make_plan
from toolkit.errors import ConfigError, RunError
from toolkit.leaderboard.board import build_board
from toolkit.training import TrainingTask, run_training

pytestmark = pytest.mark.usefixtures("grey")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ()),  # no study
        (["5", "0", "5"], (0, 5)),  # sorted, once
        (["all", "1"], (1, "all")),  # all comes last
    ],
)
def test_parse(words: list[str], expected: tuple[object, ...]) -> None:
    assert parse_budgets(words, source="x") == expected


@pytest.mark.parametrize("word", ["-1", "1.5", "most", ""])
def test_a_wrong_budget_is_one_line(word: str) -> None:
    with pytest.raises(ConfigError, match="budgets="):
        parse_budgets([word], source="x")


@pytest.mark.parametrize(
    ("method", "budgets", "expected"),
    [
        ("grey", (), (None,)),  # no study: as ever
        ("patchcore", (0, 1, "all"), (0,)),  # good-only: once
        ("patchcore", (1, "all"), (0,)),  # even where 0 is not asked for
        ("grey", (0, 1, "all"), (1, "all")),  # supervised: not without defects
    ],
)
def test_budgets_of(method: str, budgets: tuple[int, ...], expected: tuple[object, ...]) -> None:
    assert budgets_of(method, budgets) == expected


def test_what_is_left_out_is_said() -> None:
    line = left_out("mine", "grey", (0, 1, "all"))
    assert line == "mine: not run with k = 0 (needs 1 defects of each type)"
    assert left_out("mine", "grey", (1, "all")) is None
    assert left_out("mine", "patchcore", (0, 1)) is None


def test_a_reader_takes_the_run_of_its_own_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = [{"name": "on", "prompt_run": "base"}, {"name": "base"}]
    tasks = expand(read_grid(str(write_grid(tmp_path, methods, budgets=[0, 1, "all"]))))
    read = {t.entry: t.inputs["prompt_run"] for t in tasks if t.inputs}
    assert read == {
        "on k=1": "grey/base-k1-fold0-seed0",
        "on k=all": "grey/base-kall-fold0-seed0",
    }
    # What prompts from good images alone was run once.
    monkeypatch.setattr(Grey, "labels", "none")
    assert [t.entry for t in expand(read_grid(str(tmp_path / "grid.yaml")))] == [
        "base k=0",
        "on k=0",
    ]


def test_all_budgets_stand_in_one_table(sample_dir: Path, tmp_path: Path) -> None:
    said: list[str] = []
    grid = read_grid(str(write_grid(tmp_path, [{"name": "a"}], budgets=[0, 1, 2, "all"])))
    runs, errors = run_grid(grid, read_dataset(sample_dir), runs=tmp_path / "r", say=said.append)
    assert errors == []
    assert said[0].startswith("a: not run with k = 0")
    assert [(r.metadata["base_entry"], r.metadata["budget"]) for r in runs] == [
        ("a", 1),
        ("a", 2),
        ("a", "all"),
    ]
    types = len(read_dataset(sample_dir).classes)
    assert [r.metadata["labels"]["train"] for r in runs[:2]] == [types, 2 * types]
    board = build_board(runs)
    assert len(board.groups) == 1
    assert {row.entry for row in board.groups[0].rows} == {"a k=1", "a k=2", "a k=all"}


def test_a_run_is_not_gone_on_with_under_another_budget(sample_dir: Path, tmp_path: Path) -> None:
    dataset = read_dataset(sample_dir)
    split = make_plan(dataset, folds=3).fold(dataset, 0)
    task = TrainingTask(
        method="grey", entry="a", name="one", device="cpu", budget=1, base_entry="a"
    )
    run_training(task, split, runs=tmp_path)
    other = replace(task, budget=2)
    with pytest.raises(RunError, match="another budget"):
        run_training(other, split, runs=tmp_path, resume=True)

"""The label-budget study: which entry runs with how many defects, and what its runs say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.leaderboards.standin import Grey, grey, write_grid  # noqa: F401
from toolkit.benchmarking.grid import budgets_of, read_benchmark, skipped_budgets, training_tasks
from toolkit.benchmarking.study import benchmark
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.errors import ConfigError, RunError
from toolkit.leaderboards.board import leaderboard
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
def test_parse(words: list[str], expected: tuple[object, ...], tmp_path: Path) -> None:
    file = write_grid(tmp_path, [{"name": "a"}], label_budgets=words)
    assert read_benchmark(str(file)).label_budgets == expected


@pytest.mark.parametrize("word", ["-1", "1.5", "most", ""])
def test_a_wrong_budget_is_one_line(word: str, tmp_path: Path) -> None:
    file = write_grid(tmp_path, [{"name": "a"}], label_budgets=[word])
    with pytest.raises(ConfigError, match="label_budgets="):
        read_benchmark(str(file))


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
    line = skipped_budgets("mine", "grey", (0, 1, "all"))
    assert line == "mine: not run with k = 0 (needs 1 defects of each type)"
    assert skipped_budgets("mine", "grey", (1, "all")) is None
    assert skipped_budgets("mine", "patchcore", (0, 1)) is None


def test_a_reader_takes_the_run_of_its_own_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = [{"name": "on", "prompt_run": "base"}, {"name": "base"}]
    tasks = training_tasks(
        read_benchmark(str(write_grid(tmp_path, methods, label_budgets=[0, 1, "all"])))
    )
    read = {t.entry: t.inputs["prompt_run"] for t in tasks if t.inputs}
    assert read == {
        "on k=1": "grey/base-k1-fold0-seed0",
        "on k=all": "grey/base-kall-fold0-seed0",
    }
    # What prompts from good images alone was run once.
    monkeypatch.setattr(Grey, "labels", "none")
    assert [t.entry for t in training_tasks(read_benchmark(str(tmp_path / "grid.yaml")))] == [
        "base k=0",
        "on k=0",
    ]


def test_all_budgets_stand_in_one_table(sample_dir: Path, tmp_path: Path) -> None:
    said: list[str] = []
    grid = read_benchmark(
        str(write_grid(tmp_path, [{"name": "a"}], label_budgets=[0, 1, 2, "all"]))
    )
    result = benchmark(grid, sample_dir, runs=tmp_path / "r", say=said.append)
    assert result.errors == ()
    assert said[0].startswith("a: not run with k = 0")
    assert [(r.metadata["base_entry"], r.metadata["budget"]) for r in result.runs] == [
        ("a", 1),
        ("a", 2),
        ("a", "all"),
    ]
    types = len(load_dataset(sample_dir).classes)
    assert [r.metadata["labels"]["train"] for r in result.runs[:2]] == [types, 2 * types]
    board = leaderboard(result)
    assert len(board.groups) == 1
    assert {row.entry for row in board.groups[0].rows} == {"a k=1", "a k=2", "a k=all"}


def test_a_run_is_not_gone_on_with_under_another_budget(sample_dir: Path, tmp_path: Path) -> None:
    dataset = load_dataset(sample_dir)
    split = make_plan(dataset, folds=3).fold(dataset, 0)
    task = TrainingTask(
        method="grey", entry="a", name="one", device="cpu", budget=1, base_entry="a"
    )
    run_training(task, split, runs=tmp_path)
    other = replace(task, budget=2)
    with pytest.raises(RunError, match="another budget"):
        run_training(other, split, runs=tmp_path, resume=True)

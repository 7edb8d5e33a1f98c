"""From a benchmark file to tasks: every combination once, what is read comes first."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from toolkit.benchmarking.grid import (
    BenchmarkConfig,
    read_benchmark,
    training_tasks,
)
from toolkit.errors import ConfigError
from toolkit.training import read_method_config


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with three method configs."""
    monkeypatch.chdir(tmp_path)
    Path("boxes.yaml").write_text("method: yolo\nepochs: 5\nimgsz: 320\n")
    Path("masks.yaml").write_text("method: sam\nepochs: 7\n")
    Path("bank.yaml").write_text("method: patchcore\n")


def grid_of(**content: object) -> BenchmarkConfig:
    Path("grid.yaml").write_text(yaml.safe_dump(content))
    return read_benchmark("grid.yaml")


METHODS = [
    {"config": "masks.yaml", "name": "prompted", "prompt_run": "boxes"},
    {"config": "boxes.yaml", "name": "boxes", "overrides": {"epochs": 2}},
    {"config": "bank.yaml", "name": "bank"},
]


def test_defaults() -> None:
    grid = grid_of(methods=[{"config": "bank.yaml"}])
    assert (grid.name, grid.protocol, grid.n_folds, grid.split_seed) == (
        "grid", "supervised", 5, 0,
    )  # fmt: skip
    assert (grid.per_class, grid.folds, grid.seeds) == (20, (0, 1, 2, 3, 4), (0,))
    (entry,) = grid.entries
    assert (entry.method, entry.settings, entry.reads) == ("patchcore", {}, {})
    assert "/" not in entry.name


def test_everything_that_can_be_said() -> None:
    grid = grid_of(
        name="mine", protocol="balanced", n_folds=4, split_seed=3, per_class=8,
        folds=[2, 0], seeds=[5, 6], methods=METHODS,
    )  # fmt: skip
    assert (grid.name, grid.protocol, grid.n_folds, grid.split_seed) == (
        "mine", "balanced", 4, 3,
    )  # fmt: skip
    assert (grid.per_class, grid.folds, grid.seeds) == (8, (2, 0), (5, 6))
    boxes = grid.entries[1]
    assert boxes.settings == {"epochs": 2, "imgsz": 320}  # what is set wins over the file
    assert boxes.source == "boxes.yaml"


def test_official_has_one_fold() -> None:
    assert grid_of(protocol="official", methods=METHODS).folds == (0,)
    assert grid_of(protocol="official", n_folds=5, folds="all", methods=METHODS).folds == (0,)


def test_every_combination_is_one_task_with_a_name_of_its_own() -> None:
    grid = grid_of(folds=[0, 1], seeds=[0, 1], methods=METHODS)
    tasks = training_tasks(grid, device="cpu")
    assert len(tasks) == 3 * 2 * 2
    assert len({(t.method, t.name) for t in tasks}) == len(tasks)
    assert {(t.entry, t.fold, t.seed) for t in tasks} == {
        (e, f, s) for e in ("prompted", "boxes", "bank") for f in (0, 1) for s in (0, 1)
    }
    assert {t.device for t in tasks} == {"cpu"}
    # Fold by fold, so that the first whole fold is there early.
    assert [t.fold for t in tasks if t.seed == 0] == [0, 0, 0, 1, 1, 1]


def test_a_task_comes_after_the_one_that_it_reads() -> None:
    tasks = training_tasks(grid_of(folds=[0, 1], seeds=[0, 1], methods=METHODS))
    places = {f"{t.method}/{t.name}": i for i, t in enumerate(tasks)}
    readers = [t for t in tasks if t.inputs]
    assert len(readers) == 4
    for task in readers:
        read = tasks[places[task.inputs["prompt_run"]]]
        assert places[f"{task.method}/{task.name}"] > places[f"{read.method}/{read.name}"]
        assert (read.entry, read.fold, read.seed) == ("boxes", task.fold, task.seed)


def test_a_task_can_read_two_runs() -> None:
    lent = {**METHODS[0], "name": "lent", "prompt_run": "bank", "decoder_run": "prompted"}
    tasks = training_tasks(grid_of(folds=[0], methods=[lent, *METHODS]))
    assert tasks[-1].inputs == {
        "prompt_run": "patchcore/bank-fold0-seed0",
        "decoder_run": "sam/prompted-fold0-seed0",
    }


def test_readers_of_readers() -> None:
    methods = [
        {"config": "masks.yaml", "name": "c", "prompt_run": "b"},
        {"config": "masks.yaml", "name": "b", "prompt_run": "a"},
        {"config": "boxes.yaml", "name": "a"},
    ]
    assert [t.entry for t in training_tasks(grid_of(folds=[0], methods=methods))] == ["a", "b", "c"]


def test_the_same_fold_or_seed_twice_is_once() -> None:
    grid = grid_of(folds=[1, 1], seeds=[0, 0], methods=METHODS[2:])
    assert len(training_tasks(grid)) == 1


ONE = {"config": "bank.yaml", "name": "a"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        # keys
        ({"methods": [ONE], "fold": [0]}, "unknown key 'fold'; did you mean 'folds'"),
        (
            {"methods": [{**ONE, "override": {}}]},
            "unknown key 'override'; did you mean 'overrides'",
        ),
        # methods
        ({}, "no methods"),
        ({"methods": []}, "no methods"),
        ({"methods": "bank.yaml"}, "no methods"),
        ({"methods": {"config": "bank.yaml"}}, "no methods"),
        ({"methods": ["bank.yaml"]}, "needs a 'config:' line"),
        ({"methods": [{"name": "a"}]}, "needs a 'config:' line"),
        ({"methods": [{"config": "bnk.yaml"}]}, "bnk.yaml: no such config"),
        ({"methods": [{**ONE, "overrides": ["epochs", 1]}]}, "'overrides:' of bank.yaml"),
        # names
        ({"methods": [ONE, ONE]}, "two methods are called a"),
        ({"methods": [{**ONE, "prompt_run": "b"}]}, "prompt_run: b is not there"),
        ({"methods": [{**ONE, "prompt_run": "a"}]}, "reads its own run in the end"),
        (
            {"methods": [{**ONE, "prompt_run": "b"}, {**ONE, "name": "b", "prompt_run": "a"}]},
            "reads its own run in the end",
        ),
        # the split
        ({"methods": [ONE], "protocol": "supervized"}, "did you mean 'supervised'"),
        ({"methods": [ONE], "n_folds": "five"}, "n_folds=five: expected int"),
        ({"methods": [ONE], "split_seed": 1.5}, "split_seed=1.5"),
        ({"methods": [ONE], "per_class": None}, "per_class=None"),
        ({"methods": [ONE], "folds": [5]}, "fold 5: the split has folds 0 to 4"),
        ({"methods": [ONE], "folds": [-1]}, "fold -1"),
        ({"methods": [ONE], "folds": []}, "no folds"),
        ({"methods": [ONE], "folds": "some"}, "folds=some"),
        ({"methods": [ONE], "protocol": "official", "folds": [1]}, "folds 0 to 0"),
        ({"methods": [ONE], "seeds": []}, "no seeds"),
        ({"methods": [ONE], "seeds": "x"}, "seeds=x"),
    ],
)
def test_a_wrong_file_is_one_line(content: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grid_of(**content)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_number_where_a_list_may_stand() -> None:
    grid = grid_of(folds=3, seeds=4, methods=[ONE])
    assert (grid.folds, grid.seeds) == ((3,), (4,))


def test_read_method_config(tmp_path: Path) -> None:
    method, settings, source = read_method_config("boxes.yaml", {"epochs": 1})
    assert (method, settings, source) == ("yolo", {"epochs": 1, "imgsz": 320}, "boxes.yaml")
    Path("none.yaml").write_text("epochs: 1\n")
    with pytest.raises(ConfigError, match="no 'method:' line"):
        read_method_config("none.yaml", {})


@pytest.mark.parametrize("name", ["benchmark/bottle", "benchmark/demo"])
def test_the_shipped_benchmarks_are_right(name: str) -> None:
    tasks = training_tasks(read_benchmark(name))
    assert len({t.method for t in tasks}) == 5


def test_detectors_join_the_study_of_labels() -> None:
    study, detectors = (
        read_benchmark(f"benchmark/{name}") for name in ("label-budget", "label-budget-detectors")
    )
    # in one folder and of one split, so that all stand in one table
    for grid in (study, detectors):
        assert (grid.name, grid.protocol, grid.n_folds, grid.split_seed) == (
            "label-budget", "supervised", 5, 0,
        )  # fmt: skip
    tasks = [*training_tasks(study), *training_tasks(detectors)]
    assert len({(t.method, t.name) for t in tasks}) == len(tasks)
    assert {t.budget for t in training_tasks(detectors)} == {1, 5, "all"}
    prompted = {t.name: t.inputs.get("prompt_run") for t in tasks if t.method == "sam"}
    assert prompted["sam-from-yolo-k5-fold0-seed0"] == "yolo/yolo11n-k5-fold0-seed0"

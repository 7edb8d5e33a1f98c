"""A whole grid: what is finished stays, what fails does not end the rest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.leaderboards.standin import Grey, GreyPredictor, grey, write_grid  # noqa: F401
from toolkit.benchmarking.executors import LocalExecutor
from toolkit.benchmarking.grid import read_benchmark
from toolkit.benchmarking.study import benchmark
from toolkit.data.splits import SplitPlan
from toolkit.errors import ConfigError, ToolkitError
from toolkit.files import OutputError
from toolkit.leaderboards.board import leaderboard

pytestmark = pytest.mark.usefixtures("grey")


def run_small(folder: Path, data: Path, methods: list[dict[str, Any]], **keys: Any) -> Any:
    grid = read_benchmark(str(write_grid(folder, methods, **keys)))
    result = benchmark(grid, data, runs=folder)
    return result.runs, result.errors


def test_every_method_on_every_fold_and_seed(sample_dir: Path, tmp_path: Path) -> None:
    methods = [{"name": "a"}, {"name": "b", "overrides": {"offset": 1}}]
    runs, errors = run_small(tmp_path, sample_dir, methods, folds=[0, 2], seeds=[0, 5])
    assert errors == ()
    names = {f"{m}-fold{f}-seed{s}" for m in "ab" for f in (0, 2) for s in (0, 5)}
    assert {run.path.name for run in runs} == names
    assert len(Grey.fits) == 8
    plan = SplitPlan.read(tmp_path / "small/split.json")
    assert {run.record["split"]["hash"] for run in runs} == {plan.hash}


def test_going_on_skips_what_is_finished(sample_dir: Path, tmp_path: Path) -> None:
    methods: list[dict[str, Any]] = [{"name": "a"}]
    run_small(tmp_path, sample_dir, methods, folds=[0])
    runs, _ = run_small(tmp_path, sample_dir, methods, folds=[0, 1])
    assert Grey.fits == ["a-fold0-seed0", "a-fold1-seed0"]
    assert len(runs) == 2


def test_interrupted_in_the_second_fold(
    sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at_second(*words: Any, **keys: Any) -> None:
        if len(Grey.fits) == 2:
            raise KeyboardInterrupt

    whole = GreyPredictor.predict
    with monkeypatch.context() as patch:
        patch.setattr(GreyPredictor, "predict", lambda s, *w: (stop_at_second(), whole(s, *w))[1])
        with pytest.raises(KeyboardInterrupt):
            run_small(tmp_path, sample_dir, [{"name": "a"}], folds=[0, 1, 2])
    runs, errors = run_small(tmp_path, sample_dir, [{"name": "a"}], folds=[0, 1, 2])
    assert not errors
    assert Grey.fits.count("a-fold0-seed0") == 1
    # Runs read from disk and fresh ones are one row, as when all are read from disk.
    fresh, stored = leaderboard(runs), leaderboard([tmp_path / "small"])
    assert len(fresh.groups) == 1
    assert len(fresh.groups[0].rows) == 1
    assert fresh.groups[0].rows[0].values == stored.groups[0].rows[0].values


def test_a_failing_task_does_not_end_the_others(sample_dir: Path, tmp_path: Path) -> None:
    methods = [{"name": "bad", "overrides": {"fail": "predict"}}, {"name": "fine"}]
    said: list[str] = []
    grid = read_benchmark(str(write_grid(tmp_path, methods)))
    result = benchmark(grid, sample_dir, runs=tmp_path / "r", say=said.append)
    assert [run.metadata["entry"] for run in result] == ["fine"]
    assert [str(e) for e in result.errors] == ["grey: cannot predict; use another"]
    assert said[0] == "[1/2] bad-fold0-seed0"
    assert "failed: bad-fold0-seed0: grey: cannot predict; use another" in said


def test_what_leans_on_a_failed_task_fails_in_its_own_words(
    sample_dir: Path, tmp_path: Path
) -> None:
    methods = [{"name": "bad", "overrides": {"fail": "fit"}}, {"name": "on", "prompt_run": "bad"}]
    runs, errors = run_small(tmp_path, sample_dir, methods)
    assert runs == ()
    assert "bad-fold0-seed0: not finished, so it cannot be the prompt_run of on" in str(errors[1])


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"overrides": {"ofset": 1}}, "unknown key 'ofset'; did you mean 'offset'"),
        ({"overrides": {"offset": "far"}}, "expected float"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_runs(
    sample_dir: Path, tmp_path: Path, method: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run_small(tmp_path, sample_dir, [{"name": "fine"}, {"name": "bad", **method}])
    assert Grey.fits == []
    assert not (tmp_path / "small").exists()


def test_another_split_or_other_masks_in_the_same_folder(sample_dir: Path, tmp_path: Path) -> None:
    data = shutil.copytree(sample_dir, tmp_path / "data")
    run_small(tmp_path, data, [{"name": "a"}])
    before = (tmp_path / "small/split.json").read_bytes()
    with pytest.raises(ToolkitError, match="another split"):
        run_small(tmp_path, data, [{"name": "a"}], split_seed=1)
    masks = sorted((data / "ground_truth").rglob("*.png"))
    shutil.copyfile(masks[0], masks[1])
    with pytest.raises(ToolkitError, match="other data"):
        run_small(tmp_path, data, [{"name": "a"}])
    assert (tmp_path / "small/split.json").read_bytes() == before


def test_runs_cannot_be_written(sample_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "small").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        run_small(tmp_path, sample_dir, [{"name": "a"}])


def test_another_executor_may_take_its_place(sample_dir: Path, tmp_path: Path) -> None:
    class Backwards(LocalExecutor):
        def run(self, tasks: Any, work: Any, **keys: Any) -> Any:
            yield from super().run(list(tasks)[::-1], work, **keys)

    grid = read_benchmark(str(write_grid(tmp_path, [{"name": "a"}, {"name": "b"}])))
    runs = benchmark(grid, sample_dir, runs=tmp_path, executor=Backwards())
    assert Grey.fits == ["b-fold0-seed0", "a-fold0-seed0"]
    assert [run.metadata["entry"] for run in runs] == ["a", "b"], "in the order of the file"

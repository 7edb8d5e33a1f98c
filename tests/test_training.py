"""One task: a whole run directory, gone on with where it was stopped, or an error in one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.leaderboards.standin import Grey, GreyPredictor, grey  # noqa: F401
from toolkit.config import build_settings
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.data.types import file_sha256
from toolkit.errors import ConfigError, DataError, RunError, ToolkitError, WeightsError
from toolkit.runs.evaluate import evaluate
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, labels_used, run_training

pytestmark = pytest.mark.usefixtures("grey")
TASK = TrainingTask(method="grey", entry="grey", name="one", device="cpu")


def split_of(folder: Path, *, fold: int = 0, seed: int = 0) -> Split:
    dataset = load_dataset(folder)
    return make_plan(dataset, folds=3, seed=seed).fold(dataset, fold)


@pytest.fixture
def split(sample_dir: Path) -> Split:
    return split_of(sample_dir)


def test_the_run_directory_is_complete(split: Split, tmp_path: Path) -> None:
    run = run_training(TASK, split, runs=tmp_path)
    assert run.path == tmp_path / "grey/one"
    stored = json.loads((run.path / "run.json").read_text())
    assert stored == json.loads(json.dumps(run.record))
    assert stored["data"]["fingerprint"] == split.dataset.fingerprint
    assert stored["split"]["test"] == [s.id for s in split.test]
    assert stored["split"]["train_sha256"] == sorted({file_sha256(s.image) for s in split.train})
    assert stored["metadata"]["entry"] == "grey"
    assert stored["metadata"]["fit_seconds"] >= 0
    assert stored["metadata"]["peak_memory_mb"] > 1
    for part, samples in (("val", split.val), ("test", split.test)):
        said = list(read_predictions(run.predictions, part))
        assert [p.sample_id for p in said] == [s.id for s in samples]
        assert all(p.seconds is not None and 0 <= p.seconds < 60 for p in said)
    metrics = run.metrics()
    assert metrics["report"] == {"trained_on": len(split.train)}
    assert metrics["image"]["n_good"] + metrics["image"]["n_defect"] == len(split.test)
    oldest, newest = (run.path / name for name in ("weights/state.json", "metrics.json"))
    assert oldest.stat().st_mtime_ns < newest.stat().st_mtime_ns
    assert not list(run.path.rglob(".*")), "temporary files are left"


@pytest.mark.parametrize(
    ("precision", "engine"), [("float32", "torch"), ("bfloat16", "torch bfloat16")]
)
def test_the_run_knows_what_it_was_evaluated_in(
    precision: str, engine: str, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GreyPredictor, "precision", precision)
    run = run_training(TASK, split, runs=tmp_path)
    assert json.loads((run.path / "run.json").read_text())["metadata"]["engine"] == engine


def test_metrics_come_last(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def there(self: Grey, split: Split, run: Run) -> dict[str, Any]:
        found = {f.name for f in run.path.rglob("*.json*")}
        assert {"run.json", "val.jsonl", "test.jsonl"} <= found
        assert "metrics.json" not in found
        return {}

    monkeypatch.setattr(Grey, "report", there)
    assert run_training(TASK, split, runs=tmp_path).finished


def test_a_finished_run_is_not_touched(split: Split, tmp_path: Path) -> None:
    run = run_training(TASK, split, runs=tmp_path)
    before = {f: f.stat().st_mtime_ns for f in run.path.rglob("*")}
    again = run_training(TASK, split, runs=tmp_path, resume=True)
    assert again.path == run.path
    assert Grey.fits == ["one"]
    assert {f: f.stat().st_mtime_ns for f in run.path.rglob("*")} == before


def test_without_resume_a_name_is_taken_once(split: Split, tmp_path: Path) -> None:
    run_training(TASK, split, runs=tmp_path)
    with pytest.raises(RunError, match="a run of this name exists"):
        run_training(TASK, split, runs=tmp_path)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grey, "interrupted_in", "predict")
    with pytest.raises(KeyboardInterrupt):
        run_training(TASK, split, runs=tmp_path / "a")
    path = tmp_path / "a/grey/one"
    assert (path / "run.json").is_file()
    assert not (path / "predictions/val.jsonl").exists()
    assert not Run.open(path).finished
    monkeypatch.setattr(Grey, "interrupted_in", "")
    resumed = run_training(TASK, split, runs=tmp_path / "a", resume=True).metrics()
    whole = run_training(TASK, split, runs=tmp_path / "b").metrics()
    assert {**resumed, "speed": None} == {**whole, "speed": None}


def test_stopped_before_the_engine_noted_its_facts(split: Split, tmp_path: Path) -> None:
    run = run_training(TASK, split, runs=tmp_path)
    (run.path / "metrics.json").unlink()
    stored = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**stored, "metadata": {}}))
    again = run_training(TASK, split, runs=tmp_path, resume=True)
    for key in ("entry", "labels", "score_description"):
        assert again.metadata[key] == run.metadata[key]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": {"offset": 1.0}}, "another offset"),
        ({"seed": 1}, "another split or seed"),
    ],
)
def test_another_task_does_not_go_on_with_the_run(
    split: Split, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    run_training(TASK, split, runs=tmp_path)
    with pytest.raises(RunError, match=said):
        run_training(replace(TASK, **change), split, runs=tmp_path, resume=True)


def test_a_run_from_before_a_setting_existed(split: Split, tmp_path: Path) -> None:
    run = run_training(TASK, split, runs=tmp_path)
    record = json.loads((run.path / "run.json").read_text())
    del record["settings"]["offset"]
    (run.path / "run.json").write_text(json.dumps(record))
    run_training(TASK, split, runs=tmp_path, resume=True)
    assert Grey.fits == ["one"]  # it stood at its default then
    with pytest.raises(RunError, match="another offset"):
        run_training(replace(TASK, settings={"offset": 1.0}), split, runs=tmp_path, resume=True)


def test_another_fold_or_split_does_not_go_on_with_the_run(
    sample_dir: Path, split: Split, tmp_path: Path
) -> None:
    run_training(TASK, split, runs=tmp_path)
    for other in (split_of(sample_dir, fold=1), split_of(sample_dir, seed=1)):
        with pytest.raises(RunError, match="another split or seed"):
            run_training(TASK, other, runs=tmp_path, resume=True)


def test_mended_masks_do_not_go_on_with_the_run(sample_dir: Path, tmp_path: Path) -> None:
    data = shutil.copytree(sample_dir, tmp_path / "data")
    before = split_of(data)
    run_training(TASK, before, runs=tmp_path / "runs")
    masks = sorted((data / "ground_truth").rglob("*.png"))
    shutil.copyfile(masks[0], masks[1])
    after = split_of(data)
    assert after.plan_hash == before.plan_hash  # masks have no say in the split
    with pytest.raises(RunError, match="other data"):
        run_training(TASK, after, runs=tmp_path / "runs", resume=True)


def test_another_input_does_not_go_on_with_the_run(split: Split, tmp_path: Path) -> None:
    for name in ("boxes-a", "boxes-b"):
        run_training(replace(TASK, name=name), split, runs=tmp_path)
    leaning = replace(TASK, inputs={"prompt_run": "grey/boxes-a"})
    run = run_training(leaning, split, runs=tmp_path)
    found = run.input("prompt_run")
    assert found is not None
    assert found.path == tmp_path / "grey/boxes-a"
    run_training(leaning, split, runs=tmp_path, resume=True)
    with pytest.raises(RunError, match="prompt_run"):
        run_training(
            replace(TASK, inputs={"prompt_run": "grey/boxes-b"}),
            split, runs=tmp_path, resume=True,
        )  # fmt: skip


def test_an_input_is_found_from_another_working_folder(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_training(replace(TASK, name="boxes"), split, runs=Path("runs"))
    run = run_training(replace(TASK, inputs={"prompt_run": "grey/boxes"}), split, runs=Path("runs"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = run.input("prompt_run")
    assert found is not None
    assert found.finished


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"method": "grez"}, ConfigError, "did you mean 'grey'"),
        ({"settings": {"ofset": 1}}, ConfigError, "unknown key 'ofset'; did you mean 'offset'"),
        ({"settings": {"offset": "far"}}, ConfigError, "offset=far: expected float"),
        ({"device": "cuda"}, ConfigError, "--device cuda: not available"),
        ({"seed": -1}, ConfigError, "seed -1: choose one from 0 to 4294967295"),
        ({"seed": 2**32}, ConfigError, "seed 4294967296: choose one"),
        ({"inputs": {"teacher": "grey/x"}}, RunError, "takes no teacher"),
        ({"inputs": {"prompt_run": "grey/x"}}, RunError, "not a run directory"),
        ({"name": "a/b"}, RunError, "not a plain name"),
    ],
)
def test_wrong_tasks_write_nothing(
    split: Split, tmp_path: Path, change: dict[str, Any], error: type[ToolkitError], said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(error, match=said) as caught:
        run_training(replace(TASK, **change), split, runs=tmp_path / "runs")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("error", [ConfigError, DataError, WeightsError])
def test_input_that_the_method_refuses_leaves_the_name_free(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[ToolkitError]
) -> None:
    def refuse(self: Grey, split: Split, run: Run) -> None:
        (run.weights / "half.json").write_text("{}")
        raise error("wrong")

    with monkeypatch.context() as patched:
        patched.setattr(Grey, "fit", refuse)
        with pytest.raises(error, match="wrong"):
            run_training(TASK, split, runs=tmp_path)
    assert not (tmp_path / "grey/one").exists()
    assert run_training(TASK, split, runs=tmp_path).finished


def test_what_was_trained_is_not_thrown_away(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Grey, split: Split, run: Run) -> None:
        run.add_result({"epoch": len(run.results()) + 1})
        raise DataError("an image vanished")

    monkeypatch.setattr(Grey, "fit", fail)
    for resume, rows in ((False, 1), (True, 2)):
        with pytest.raises(DataError):
            run_training(TASK, split, runs=tmp_path, resume=resume)
        assert len(Run.open(tmp_path / "grey/one").results()) == rows


def test_a_run_that_was_there_before_stays(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_training(TASK, split, runs=tmp_path)
    (run.path / "metrics.json").unlink()
    (run.path / "results.csv").unlink()

    def fail(self: Grey, split: Split, run: Run) -> None:
        raise ConfigError("wrong")

    monkeypatch.setattr(Grey, "fit", fail)
    with pytest.raises(ConfigError):
        run_training(TASK, split, runs=tmp_path, resume=True)
    assert run.path.is_dir()


def test_an_unfinished_input_is_refused(split: Split, tmp_path: Path) -> None:
    other = run_training(replace(TASK, name="boxes"), split, runs=tmp_path)
    (other.path / "metrics.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        run_training(replace(TASK, inputs={"prompt_run": "grey/boxes"}), split, runs=tmp_path)
    assert not (tmp_path / "grey/one").exists()


def test_what_a_method_is_told(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    method = Grey(build_settings(Grey.Settings, {}, source="test"))
    told = labels_used(method, split)
    assert told == {
        "kind": "image",
        "train": sum(s.label != "good" for s in split.train),
        "val": sum(s.label != "good" for s in split.val),
    }
    assert told["train"] > 0
    monkeypatch.setattr(Grey, "labels", "none")
    assert labels_used(method, split) == {**told, "kind": "none", "train": 0}


def test_scoring_again_gives_the_same_bytes(split: Split, tmp_path: Path) -> None:
    run = run_training(TASK, split, runs=tmp_path)
    first = (run.path / "metrics.json").read_bytes()
    (run.path / "metrics.json").unlink()
    shutil.rmtree(run.path / "weights")  # stored predictions alone
    run.finish(evaluate(run.path, split.dataset))
    assert (run.path / "metrics.json").read_bytes() == first


def test_two_processes_do_not_train_the_same_run(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit_twice(self: Grey, split: Split, run: Run) -> None:
        run_training(TASK, split, runs=tmp_path, resume=True)

    monkeypatch.setattr(Grey, "fit", fit_twice)
    with pytest.raises(RunError, match="another process is training this run"):
        run_training(TASK, split, runs=tmp_path)

"""The run directory: numbered, never overwritten, finished only with its metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import RunError, ToolkitError
from toolkit.files import OutputError
from toolkit.runs.run import Run, find_runs


def create(root: Path, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "method": "patchcore",
        "settings": {"layers": [2, 3]},
        "split": {"hash": "abc", "fold": 0},
        "data": {"name": "bottle"},
        "seed": 7,
    }
    return Run.create(root, **{**values, **changes})


def test_run_json_is_there_first_and_reads_back(tmp_path: Path) -> None:
    run = create(tmp_path, name="a", device="cpu", inputs={"prompt_run": "elsewhere"})
    assert run.path == tmp_path / "patchcore/a"
    assert [f.name for f in run.path.iterdir()] == ["run.json"]
    again = Run.open(run.path)
    assert again.record == run.record
    assert (again.method, again.seed, again.device) == ("patchcore", 7, "cpu")
    assert again.record["settings"] == {"layers": [2, 3]}
    assert again.record["environment"]["python"]
    assert again.record["started"]
    assert not again.finished
    assert Run.open(str(run.path)).path == run.path


def test_names_are_numbered(tmp_path: Path) -> None:
    assert [create(tmp_path).path.name for _ in range(3)] == ["001", "002", "003"]
    create(tmp_path, name="mine")
    create(tmp_path, name="041")
    (tmp_path / "patchcore/0999x").mkdir()
    assert create(tmp_path).path.name == "042"
    assert create(tmp_path, method="yolo").path.name == "001"


def test_two_at_once_never_share_a_number(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda seed: create(tmp_path, seed=seed), range(16)))
    assert len({run.path for run in runs}) == 16
    assert sorted(Run.open(run.path).seed for run in runs) == list(range(16))


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    run = create(tmp_path, name="a")
    with pytest.raises(RunError, match="choose another --name or --resume"):
        create(tmp_path, name="a", seed=8)
    assert Run.open(run.path).seed == 7
    (tmp_path / "patchcore/file").write_text("x")
    with pytest.raises(RunError, match="choose another --name"):
        create(tmp_path, name="file")


def test_a_folder_without_a_first_file_is_no_run(tmp_path: Path) -> None:
    # What is left where a process was killed before it wrote anything.
    (tmp_path / "patchcore/a").mkdir(parents=True)
    assert create(tmp_path, name="a").seed == 7


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/tmp/x", "a/"])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="not a plain name"):
        create(tmp_path / "runs", name=name)
    assert list(tmp_path.iterdir()) == []


def test_runs_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        create(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "not a run directory"),
        ("{", "not valid JSON"),
        ("[]", "of schema None"),
        ('{"schema": 99}', "of schema 99"),
        ('{"schema": 2, "method": "yolo"}', "damaged (no settings)"),
    ],
)
def test_what_is_no_run(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(ToolkitError) as caught:
        Run.open(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_notes_stay(tmp_path: Path) -> None:
    run = create(tmp_path, name="a")
    run.update_metadata(weights="none", seconds=1.0)
    Run.open(run.path).update_metadata(seconds=2.0)
    assert Run.open(run.path).metadata == {"weights": "none", "seconds": 2.0}


def test_the_log_grows(tmp_path: Path) -> None:
    run = create(tmp_path)
    run.log("one ä")
    Run.open(run.path).log("two")
    lines = (run.path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["one ä", "two"]


def test_folders_are_made_when_asked_for(tmp_path: Path) -> None:
    run = create(tmp_path)
    for folder, name in (
        (run.weights, "weights"),
        (run.plots, "plots"),
        (run.predictions, "predictions"),
    ):
        assert folder == run.path / name
        assert folder.is_dir()


def test_results_are_one_row_per_epoch(tmp_path: Path) -> None:
    run = create(tmp_path)
    assert run.results() == []
    run.add_result({"epoch": 1, "loss": 0.5})
    run.add_result({"epoch": 2, "loss": 0.25, "note": 'a "b", ä'})  # a new column
    assert run.results() == [
        {"epoch": "1", "loss": "0.5", "note": ""},
        {"epoch": "2", "loss": "0.25", "note": 'a "b", ä'},
    ]


def test_resuming_replaces_the_epochs_that_are_run_again(tmp_path: Path) -> None:
    run = create(tmp_path)
    for epoch in (1, 2, 3):
        run.add_result({"epoch": epoch, "loss": 0.1 / 3})
    for epoch in (2, 3, 4):
        Run.open(run.path).add_result({"epoch": epoch, "loss": 1.0})
    rows = run.results()
    assert [r["epoch"] for r in rows] == ["1", "2", "3", "4"]
    assert float(rows[0]["loss"]) == 0.1 / 3  # not rounded on the way
    assert [r["loss"] for r in rows[1:]] == ["1.0"] * 3


def test_rows_without_an_epoch_are_kept(tmp_path: Path) -> None:
    run = create(tmp_path)
    run.add_result({"bank": 10})
    run.add_result({"bank": 10})
    assert run.results() == [{"bank": "10"}] * 2


def test_finished_means_metrics(tmp_path: Path) -> None:
    run = create(tmp_path)
    with pytest.raises(RunError, match="--resume"):
        run.metrics()
    run.finish({"auroc": 1.0})
    assert run.finished
    assert Run.open(run.path).metrics() == {"auroc": 1.0}


def test_metrics_that_cannot_be_stored_do_not_finish_a_run(tmp_path: Path) -> None:
    run = create(tmp_path)
    with pytest.raises(ValueError, match="JSON compliant"):
        run.finish({"auroc": float("nan")})
    assert not run.finished


def test_inputs_are_runs(tmp_path: Path) -> None:
    boxes = create(tmp_path, method="yolo", name="boxes")
    run = create(tmp_path, method="sam", inputs={"prompt_run": str(boxes.path)})
    found = run.input("prompt_run")
    assert found is not None
    assert found.path == boxes.path
    assert run.input("other") is None
    (boxes.path / "run.json").unlink()
    with pytest.raises(RunError, match="not a run directory"):
        run.input("prompt_run")


def test_find_runs(tmp_path: Path) -> None:
    a, b = create(tmp_path / "x"), create(tmp_path / "y", method="sam")
    assert find_runs([tmp_path]) == sorted([a.path, b.path])
    assert find_runs([tmp_path / "x"]) == [a.path]
    assert find_runs([a.path, tmp_path / "x"]) == [a.path]
    assert find_runs([tmp_path / "none"]) == []


def test_run_json_is_readable_by_a_person(tmp_path: Path) -> None:
    text = (create(tmp_path).path / "run.json").read_text()
    assert text.startswith("{\n")
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_nothing_is_written_into_a_finished_run(tmp_path: Path) -> None:
    run = create(tmp_path)
    run.finish({"auroc": 1.0})
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(RunError, match="finished, so nothing may write into it"):
        run.update_metadata(weights="other")
    assert (run.path / "run.json").read_bytes() == before
    assert "weights" not in run.metadata
    for folder in (run.weights, run.plots, run.predictions):
        assert not folder.exists()  # reading a path makes no folder


def test_metrics_that_are_no_mapping_are_damaged(tmp_path: Path) -> None:
    run = create(tmp_path)
    (run.path / "metrics.json").write_text("[]")
    with pytest.raises(RunError, match=r"metrics\.json: damaged"):
        run.metrics()


_HOLD = """
import sys, time
from toolkit.runs.run import Run
with Run.open(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_work_on_one_run(tmp_path: Path) -> None:
    run = create(tmp_path)
    words = [sys.executable, "-c", _HOLD, str(run.path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match="another process is training this run"), run.lock():
            pass
        other.kill()
        other.wait()
    again = Run.open(run.path)
    # The lock of a dead process is free.
    with run.lock(), pytest.raises(RunError, match="another process"), again.lock():
        pass
    with run.lock():
        pass
    assert not list(run.path.glob(".*"))

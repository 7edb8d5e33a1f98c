"""`toolkit predict`: a finished run says of new images what it said of the same ones before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.command import run
from tests.leaderboards.standin import grey  # noqa: F401
from toolkit.errors import ToolkitError
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.run import Run

pytestmark = pytest.mark.usefixtures("grey")


def records(out: str = "predictions") -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(out, "predictions.jsonl").read_text().splitlines()]


def test_the_same_scores_as_in_the_run(finished: Run, sample_dir: Path) -> None:
    known = {p.sample_id: p.score for p in read_predictions(finished.predictions, "test")}
    images = [sample_dir / name for name in known]
    result = run("predict", finished.path, *images, "--out", "found")
    assert result.exit_code == 0
    threshold = finished.metrics()["thresholds"][0]
    assert [r["score"] for r in records("found")] == list(known.values())
    assert [r["is_defect"] for r in records("found")] == [s >= threshold for s in known.values()]
    words = [line.split()[0] for line in result.stdout.splitlines()]
    assert words == ["defect" if s >= threshold else "good" for s in known.values()]
    assert len(list(Path("found").rglob("*.jpg"))) == len(images)


def test_a_finished_run_is_not_written_to(finished: Run, sample_dir: Path) -> None:
    before = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in files_of(finished)}
    run("predict", finished.path, next(sample_dir.rglob("*.png")))
    assert {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in files_of(finished)} == before


def files_of(finished: Run) -> list[Path]:
    return sorted(f for f in finished.path.rglob("*") if f.is_file())


def test_a_run_without_threshold_does_not_guess(finished: Run, sample_dir: Path) -> None:
    metrics = finished.metrics()
    finished.finish({**metrics, "thresholds": [None]})
    result = run("predict", finished.path, next(sample_dir.rglob("*.png")))
    assert result.stdout.startswith("? ")
    assert records()[0]["is_defect"] is None


def test_an_unfinished_run(finished: Run, sample_dir: Path) -> None:
    (finished.path / "metrics.json").unlink()
    with pytest.raises(ToolkitError, match="not finished"):
        run("predict", finished.path, next(sample_dir.rglob("*.png")))
    assert not Path("predictions").exists()


def test_one_bad_image_is_reported_and_left_out(finished: Run, sample_dir: Path) -> None:
    whole = next(sample_dir.rglob("*.png"))
    Path("new").mkdir()
    for name in "ac":
        shutil.copyfile(whole, f"new/{name}.png")
    Path("new/b.png").write_bytes(whole.read_bytes()[:-50])
    result = run("predict", finished.path, "new")
    assert result.exit_code == 1
    assert result.stderr.count("left out: new/b.png: not a readable image") == 1
    assert [Path(str(r["image"])).name for r in records()] == ["a.png", "c.png"]


def test_an_output_that_cannot_be_written(finished: Run, sample_dir: Path) -> None:
    Path("file").write_text("")
    with pytest.raises(ToolkitError, match="cannot be written"):
        run("predict", finished.path, next(sample_dir.rglob("*.png")), "--out", "file")


def test_a_method_that_is_gone(finished: Run, sample_dir: Path) -> None:
    record = json.loads((finished.path / "run.json").read_text())
    (finished.path / "run.json").write_text(json.dumps({**record, "method": "gone"}))
    with pytest.raises(ToolkitError, match="method gone: unknown"):
        run("predict", finished.path, next(sample_dir.rglob("*.png")))

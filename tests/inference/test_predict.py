"""Many images into a folder: streamed, resumed, stopped, and never half written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.cli.command import run as command
from tests.tiny import TinyRuns
from toolkit.errors import ConfigError, ToolkitError
from toolkit.files import OutputError
from toolkit.inference import sinks
from toolkit.inference.sinks import PREDICTIONS
from toolkit.runs.run import Run

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def padim(tmp_path_factory: pytest.TempPathFactory, sample_dir: Path, tiny_runs: TinyRuns) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "padim"
    run = Run.open(shutil.copytree(tiny_runs("padim").path, folder))
    scores = [
        r.score for r in toolkit.load_model(run)(sorted(sample_dir.rglob("test/*/*.png"))[:12])
    ]
    run.finish({**run.metrics(), "thresholds": [sorted(scores)[6]]})  # some are good, some not
    return run


@pytest.fixture
def folder(sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve images in a folder of the working folder."""
    monkeypatch.chdir(tmp_path)
    images = sorted(sample_dir.rglob("test/*/*.png"))
    for number in range(12):
        target = Path(f"in/{'ab'[number % 2]}/{number:02d}.png")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images[number % len(images)], target)
    return Path("in")


def records(out: str = "predictions") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(out, PREDICTIONS).read_text().splitlines()]


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_the_order_is_that_of_the_source(engine: str, padim: Run, folder: Path) -> None:
    result = command("predict", padim.path, folder, "--engine", engine)
    assert result.exit_code == 0
    files = [str(f) for f in sorted(folder.rglob("*.png"))]
    assert [r["image"] for r in records()] == files
    assert [line.split()[-1] for line in result.stdout.splitlines()] == files
    wanted = toolkit.load_model(padim, engine=engine)(folder)
    assert [r["score"] for r in records()] == pytest.approx([r.score for r in wanted], rel=1e-3)


@pytest.mark.parametrize("pictures", ["all", "defects", "none"])
def test_pictures(pictures: str, padim: Run, folder: Path) -> None:
    command("predict", padim.path, folder, "--pictures", pictures)
    drawn = {"all": records(), "defects": [r for r in records() if r["is_defect"]], "none": []}
    names = {Path(r["image"]).stem for r in drawn[pictures]}
    assert {f.stem for f in Path("predictions").rglob("*.jpg")} == names
    assert 0 < sum(r["is_defect"] for r in records()) < 12


def test_resume_leaves_finished_images_alone(padim: Run, folder: Path) -> None:
    command("predict", padim.path, folder)
    lines = Path("predictions", PREDICTIONS).read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[:5])
    Path("predictions", PREDICTIONS).write_bytes(kept + lines[5][:20])  # stopped in a line
    for number in (0, 7):
        sorted(Path("predictions").rglob("*.jpg"))[number].unlink()
    result = command("predict", padim.path, folder, "--resume")
    assert len(result.stdout.splitlines()) == 7
    assert Path("predictions", PREDICTIONS).read_bytes() == kept + b"".join(lines[5:])
    assert len(list(Path("predictions").rglob("*.jpg"))) == 11  # of the first five none again


def test_resume_refuses_results_of_another_model(
    padim: Run, folder: Path, sample_dir: Path, tmp_path: Path
) -> None:
    command("predict", padim.path, folder)
    other = tmp_path / "other/run"
    shutil.copytree(padim.path, other)
    with pytest.raises(ConfigError, match="results of another model; choose another --out"):
        command("predict", other, folder, "--resume")


def test_bad_images_are_left_out_and_the_others_answered(padim: Run, folder: Path) -> None:
    bad = folder / "a/04.png"
    bad.write_bytes(bad.read_bytes()[:-60])
    result = command("predict", padim.path, folder)
    assert result.exit_code == 1
    assert result.stderr.count("left out: in/a/04.png: not a readable image") == 1
    assert len(records()) == 11


@pytest.mark.parametrize("suffix", ["images.txt", "images.parquet"])
def test_parquet_in_and_out(suffix: str, padim: Run, folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    files = [str(f) for f in sorted(folder.rglob("*.png"))]
    if suffix.endswith("txt"):
        Path(suffix).write_text("\n".join(files))
    else:
        parquet.write_table(pyarrow.table({"path": files}), suffix)
    command("predict", padim.path, suffix, "--format", "parquet", "--pictures", "none")
    table = parquet.read_table("predictions/predictions.parquet")
    assert table.to_pylist() == records()
    assert [r["image"] for r in records()] == files


def test_boxes_in_parquet_keep_their_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(sinks, "_PARQUET_ROWS", 2)
    box = {"box_xyxy": [0.0, 1.0, 2.0, 3.0], "label": "dent", "score": 0.5}
    rows = [
        {"image": str(i), "score": 0.5, "threshold": None if i < 3 else 0.25, "is_defect": None,
         "boxes": [box] * (i // 3)}
        for i in range(7)
    ]  # fmt: skip
    (tmp_path / PREDICTIONS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    sinks.write_parquet(tmp_path)
    assert parquet.read_table(tmp_path / "predictions.parquet").to_pylist() == rows


def test_nothing_to_predict(padim: Run, folder: Path) -> None:
    with pytest.raises(ConfigError, match="SOURCE: name images"):
        command("predict", padim.path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line(padim: Run, folder: Path, tmp_path: Path) -> None:
    Path("out").mkdir()
    Path("out", PREDICTIONS).symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"out: cannot be written \(No space left.*--resume"):
        command("predict", padim.path, folder, "--out", "out", "--pictures", "none")


def test_a_line_that_does_not_fit_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def tell(self) -> int:
            return int(self.file.tell())

        def write(self, data: bytes) -> int:
            if len(data) < 30:
                return int(self.file.write(data))
            if len(data) == 60:
                return int(self.file.write(data[:20]))
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            self.file.close()

    with sinks.ResultWriter(tmp_path) as writer:
        writer._file = Full(writer._file)
        writer.add_line({"image": "a"})
        with pytest.raises(ToolkitError, match="No space left"):
            writer.add_line({"image": "b" * (59 - len(json.dumps({"image": ""})))})
    assert records(str(tmp_path)) == [{"image": "a"}]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_stops_between_two_images(
    name: str, status: int, padim: Run, folder: Path
) -> None:
    for number in range(400):
        shutil.copyfile(folder / "a/00.png", folder / f"z{number:03d}.png")
    words = [sys.executable, "-c", "from toolkit.cli.main import main; main()", "predict"]
    process = subprocess.Popen(
        [*words, str(padim.path), "in"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "stopped; continue with --resume" in errors
    assert 5 <= len(records()) < 412
    assert all(Path("predictions", Path(r["image"]).relative_to("in")).with_suffix(".jpg").is_file()
               for r in records())  # fmt: skip


@pytest.mark.slow
def test_torch_is_not_imported_where_an_engine_needs_none(
    padim: Run, folder: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from toolkit.cli.main import app; "
        "app(sys.argv[1:], standalone_mode=False); "
        "print('heavy', {'torch', 'timm', 'ultralytics', 'scipy'} & set(sys.modules))"
    )

    def predict(model: Path, *options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, "predict", str(model), "in/a/00.png", *options],
            capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return done.stdout.splitlines()[-1]

    assert "torch" in predict(padim.path, "--engine", "openvino")  # makes the engine's files
    # The seconds of the processor, because those of the clock are longer on a busy machine.
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert predict(padim.path, "--engine", "openvino") == "heavy set()"
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.ru_utime - started.ru_utime < 15
    command("export", padim.path, "--to", "openvino", "--out", "exported")
    assert predict(Path("exported")) == "heavy set()"


def test_arrays_and_numbers_in_a_record(padim: Run, folder: Path) -> None:
    (result,) = toolkit.load_model(padim)(np.zeros((50, 60, 3), np.uint8))
    record = result.to_dict()
    assert json.loads(json.dumps(record)) == record
    assert record["score"] == result.score

"""`toolkit convert` as a person types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolkit.cli.main import app
from toolkit.errors import ToolkitError
from toolkit.formats.report import Report

runner = CliRunner()


def run(*words: object) -> tuple[int, str]:
    result = runner.invoke(app, ["convert", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_converts_and_says_so_the_second_time(sample_dir: Path, tmp_path: Path) -> None:
    words = ("--to", "yolo-seg", "--data", sample_dir, "--out", tmp_path / "out", "--preview", 4)
    status, text = run(*words)
    assert status == 0
    report = Report.read(tmp_path / "out")
    assert f"{report.n_regions} regions" in text
    assert report.split_hash is not None  # by default the project's own protocol
    assert set(report.images) == {"train", "val", "test"}
    assert (tmp_path / "out/preview.png").is_file()
    status, text = run(*words)
    assert status == 0
    assert "up to date" in text


def test_every_option_reaches_the_conversion(sample_dir: Path, tmp_path: Path) -> None:
    classes = tmp_path / "map.yaml"
    classes.write_text("broken_large: broken\nbroken_small: broken\ncontamination: null\n")
    status, _ = run(
        *("--to", "sam", "--data", sample_dir, "--out", tmp_path / "out", "--layout", "mvtec"),
        *("--split", "none", "--images", "copy", "--backgrounds", "0.2", "--connectivity", 4),
        *("--min-area", 2, "--merge-distance", 5, "--classes", classes, "--image-size", 64),
        *("--points", 2, "--box-jitter", 0.2, "--seed", 7, "--workers", 1),
    )
    assert status == 0
    report = Report.read(tmp_path / "out")
    assert report.classes == ("broken",)
    assert report.split_hash is None
    assert set(report.images) == {"test"}


def test_back_to_masks(sample_dir: Path, tmp_path: Path) -> None:
    assert run("--to", "coco", "--data", sample_dir, "--out", tmp_path / "coco")[0] == 0
    status, _ = run("--to", "masks", "--data", tmp_path / "coco", "--out", tmp_path / "masks")
    assert status == 0
    there, back = Report.read(tmp_path / "coco"), Report.read(tmp_path / "masks")
    assert (there.images, there.regions) == (back.images, back.regions)


def test_bad_input_gives_status_1(sample_dir: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(sample_dir, tmp_path / "data")
    bad = next((tmp_path / "data/ground_truth").rglob("*.png"))
    bad.write_bytes(bad.read_bytes()[:50])
    words = ("--to", "yolo", "--data", tmp_path / "data", "--out", tmp_path / "out")
    status, text = run(*words)
    assert status == 1
    assert bad.name in text
    assert run(*words)[0] == 1  # also where nothing is to be done
    with pytest.raises(ToolkitError, match=bad.name):
        run(*words, "--strict", "--overwrite")
    assert Report.read(tmp_path / "out").problems  # the earlier output stands


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "yolov8"], "unknown format"),
        (["--to", "masks"], "--data"),
        (["--to", "yolo", "--backgrounds", "few"], "--backgrounds=few"),
        (["--to", "yolo", "--mask-values", "0=x"], "--mask-values"),
        (["--to", "yolo", "--mask-values", "scratch"], "--mask-values"),
        (["--to", "yolo", "--classes", "none.yaml"], "none.yaml"),
        (["--to", "yolo", "--split", "none.json"], "none.json"),
    ],
)
def test_wrong_options(sample_dir: Path, tmp_path: Path, words: list[str], said: str) -> None:
    data = [] if "masks" in words else ["--data", sample_dir]
    with pytest.raises(ToolkitError, match=said):
        run(*words, *data, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_import_is_light() -> None:
    code = (
        "import sys, toolkit.cli.convert; "
        "print([m for m in ('torch', 'cv2', 'numpy', 'ultralytics', 'yaml') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"

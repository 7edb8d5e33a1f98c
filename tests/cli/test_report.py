"""`toolkit report`: one file, complete or not at all; runs that are left out are named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.reporting.fake_runs import make_run
from toolkit.cli.main import app
from toolkit.errors import ToolkitError
from toolkit.reporting import page


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Bundling the plotting library takes seconds; that it is there is tested in the browser.
    monkeypatch.setattr(page, "vega_script", lambda: "")
    monkeypatch.setattr("toolkit.reporting.write.vega_script", lambda: "")


@pytest.fixture
def runs(sample_dir: Path) -> Path:
    for entry in ("a", "b"):
        make_run(Path("runs"), sample_dir, entry=entry, outputs=["map"])
    return Path("runs")


def report(*words: object) -> Any:
    result = CliRunner().invoke(app, ["report", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def _methods() -> list[str]:
    found = re.search(r'id="gallery-data">(.*?)</script>', Path("report.html").read_text())
    assert found is not None
    return [m["name"] for group in json.loads(found[1])["groups"] for m in group["methods"]]


def left() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


@pytest.mark.usefixtures("runs")
def test_writes_one_file_and_prints_its_size() -> None:
    result = report()
    assert result.exit_code == 0
    assert left() == ["report.html", "runs"]
    assert result.stdout.startswith("report.html: ")
    assert result.stdout.endswith(" MB\n")
    assert "predictions" in result.stderr


def test_an_existing_file_is_kept(runs: Path) -> None:
    Path("mine.html").write_text("mine")
    with pytest.raises(ToolkitError, match=r"mine\.html: already there.*--overwrite"):
        report(runs, "--out", "mine.html")
    assert Path("mine.html").read_text() == "mine"
    assert report(runs, "--out", "mine.html", "--overwrite").exit_code == 0
    assert "<!doctype html>" in Path("mine.html").read_text()
    Path("folder").mkdir()
    with pytest.raises(ToolkitError, match="is a folder"):
        report(runs, "--out", "folder", "--overwrite")


def test_a_damaged_run_is_named_and_left_out(runs: Path) -> None:
    (runs / "grey/001/predictions/test.jsonl").write_text("{}\n")
    result = report(runs)
    assert result.exit_code == 1
    assert "left out: runs/grey/001" in result.stderr
    text = Path("report.html").read_text()
    assert "Left out" in text
    assert _methods() == ["b"]


def test_a_damaged_anomaly_map(runs: Path) -> None:
    first = next((runs / "grey/002/predictions/test").rglob("*.npy"))
    first.write_bytes(b"no array")
    result = report(runs)
    assert result.exit_code == 1
    assert "left out: runs/grey/002" in result.stderr
    assert _methods() == ["a"]


def test_without_images(runs: Path, sample_dir: Path) -> None:
    data = shutil.copytree(sample_dir, "data")
    make_run(runs, Path("data"), entry="c")
    shutil.rmtree(data)
    shutil.rmtree(runs / "grey/001")
    shutil.rmtree(runs / "grey/002")
    result = report(runs)
    assert result.exit_code == 0
    assert "images not found at data" in result.stderr
    assert _methods() == ["c"]


def test_control_characters_never_reach_the_terminal(runs: Path) -> None:
    (runs / "grey/001").rename(runs / "grey/\x1b[31mred\nline")
    (runs / "grey/\x1b[31mred\nline/metrics.json").unlink()
    result = report(runs)
    assert result.exit_code == 1
    assert "\x1b" not in result.stderr
    assert r"left out: runs/grey/\x1b[31mred\nline: not finished" in result.stderr


def test_without_a_usable_run_nothing_is_written(runs: Path) -> None:
    for file in runs.rglob("metrics.json"):
        file.unlink()
    with pytest.raises(ToolkitError, match=r"no usable run: runs/grey/001"):
        report(runs)
    assert left() == ["runs"]
    with pytest.raises(ToolkitError, match="no such folder"):
        report("nowhere")


@pytest.mark.usefixtures("runs")
def test_a_stop_leaves_no_half_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("toolkit.reporting.write.render_page", stop)
    result = CliRunner().invoke(app, ["report"])
    assert result.exit_code != 0
    assert left() == ["runs"]

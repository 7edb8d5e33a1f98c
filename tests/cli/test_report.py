"""`toolkit report`: one file, whole or not at all, and what is left out is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.reporting.made import make_run
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
        make_run(Path("runs"), sample_dir, entry=entry, gives=["map"])
    return Path("runs")


def report(*words: object) -> Any:
    result = CliRunner().invoke(app, ["report", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def left() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


@pytest.mark.usefixtures("runs")
def test_writes_one_file_and_says_its_size() -> None:
    result = report()
    assert result.exit_code == 0
    assert left() == ["report.html", "runs"]
    assert result.stdout.startswith("report.html: ")
    assert "MB, 2 methods, " in result.stdout
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


def test_a_damaged_run_is_named_and_the_rest_shown(runs: Path) -> None:
    (runs / "grey/001/predictions/test.jsonl").write_text("{}\n")
    result = report(runs)
    assert result.exit_code == 1
    assert "left out: runs/grey/001" in result.stderr
    text = Path("report.html").read_text()
    assert "Left out" in text
    assert "MB, 1 method, " in result.stdout


def test_a_damaged_score_map_too(runs: Path) -> None:
    first = next((runs / "grey/002/predictions/test").rglob("*.npy"))
    first.write_bytes(b"no array")
    result = report(runs)
    assert result.exit_code == 1
    assert "left out: runs/grey/002" in result.stderr
    assert "MB, 1 method, " in result.stdout


def test_nothing_to_show_writes_nothing(runs: Path) -> None:
    for file in runs.rglob("metrics.json"):
        file.unlink()
    with pytest.raises(ToolkitError, match=r"no run can be shown: runs/grey/001"):
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

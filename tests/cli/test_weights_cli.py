"""`toolkit weights`: what it prints and how it leaves."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from toolkit.cli.weights import weights_app
from toolkit.errors import ConfigError, WeightsError
from toolkit.home import weights_dir

CONTENT = b"tensors"
PIN = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """weights/ of the test's home, with a registry of two files, one of them here."""
    facts: dict[str, Any] = {"description": "d", "licence": "MIT", "sha256": PIN}
    registry = {"here": {**facts, "file": "here.pt"}, "away": {**facts, "file": "away.pt"}}
    path = weights_dir()
    path.mkdir(parents=True)
    (path / "registry.yaml").write_text(yaml.safe_dump(registry))
    (path / "here.pt").write_bytes(CONTENT)
    monkeypatch.setenv("COLUMNS", "120")
    return path


def run(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(weights_app, list(arguments))
    assert result.exit_code == status, result.output
    return result.output


def test_list(folder: Path) -> None:
    lines = run("list").splitlines()
    (here,) = (line for line in lines if " here " in line and "MIT" in line)
    (away,) = (line for line in lines if " away " in line)
    assert "yes" in here
    assert "no" in away


def test_fetch_prints_the_path(folder: Path) -> None:
    assert str(folder / "here.pt") in run("fetch", "here")


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        (["away"], WeightsError, "away.pt: put the file there"),
        (["--all"], WeightsError, "away.pt: put the file there"),
        (["here", "hare"], WeightsError, "did you mean 'here'"),  # before anything is fetched
        ([], ConfigError, "give names"),
        (["here", "--all"], ConfigError, "give names"),
    ],
)
def test_fetch_fails(
    folder: Path, arguments: list[str], error: type[Exception], reason: str
) -> None:
    result = CliRunner().invoke(weights_app, ["fetch", *arguments])
    assert isinstance(result.exception, error)
    assert reason in str(result.exception)
    assert "\n" not in str(result.exception)


def test_verify_all_passes_over_what_was_never_fetched(folder: Path) -> None:
    output = run("verify")
    assert "ok       here" in output
    assert "away" not in output


def test_verify_by_name_says_missing(folder: Path) -> None:
    assert "missing  away" in run("verify", "away")


def test_verify_nothing_fetched(folder: Path) -> None:
    (folder / "here.pt").unlink()
    assert "nothing fetched yet" in run("verify")


def test_verify_damaged_leaves_with_1(folder: Path) -> None:
    (folder / "here.pt").write_bytes(b"damaged")
    assert "damaged  here" in run("verify", status=1)


def test_import_is_light() -> None:
    heavy = "{'torch', 'timm', 'ultralytics', 'requests', 'onnx'}"
    code = f"import sys, toolkit.cli.weights; print({heavy} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "set()"

"""`toolkit doctor`: facts, on any machine, that a program can read too."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolkit import __version__, doctor
from toolkit.cli.main import app
from toolkit.weights.registry import load


def test_json() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["machine"]["toolkit"] == __version__
    assert report["machine"]["python"] == sys.version.split()[0]
    assert report["machine"]["cores"] >= 1
    assert report["packages"]["torch"]
    assert set(report["weights"]) == set(load())


def test_text_says_the_same() -> None:
    text = CliRunner().invoke(app, ["doctor"]).stdout
    for heading, facts in doctor.examine().items():
        assert f"{heading}:" in text
        for key in facts:
            assert f"  {key}: " in text


def test_home_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path / "not/yet"))
    folders = doctor.examine()["folders"]
    assert folders["home"] == str(tmp_path / "not/yet")
    assert folders["free_gb"] >= 0
    assert not (tmp_path / "not").exists(), "looking must not make anything"


def test_weights_that_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    name, entry = next(
        (n, e) for n, e in load().items() if doctor.examine()["weights"][n] != "here"
    )
    (tmp_path / "weights").mkdir(exist_ok=True)
    (tmp_path / "weights" / entry.file).write_bytes(b"x")
    assert doctor.examine()["weights"][name] == "here"


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert doctor.examine()["optional packages"]["onnx"] == "missing; extra [onnx]"

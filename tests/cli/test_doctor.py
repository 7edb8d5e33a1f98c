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


def test_text_has_the_same_content() -> None:
    text = CliRunner().invoke(app, ["doctor"]).stdout
    for heading, values in doctor.describe_installation().items():
        assert f"{heading}:" in text
        for key in values:
            assert f"  {key}: " in text


def test_home_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path / "not/yet"))
    folders = doctor.describe_installation()["folders"]
    assert folders["home"] == str(tmp_path / "not/yet")
    assert folders["free_gb"] >= 0
    assert not (tmp_path / "not").exists(), "describing must not create anything"


def test_weights_that_are_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    name, entry = next(
        (n, e)
        for n, e in load().items()
        if doctor.describe_installation()["weights"][n] != "available"
    )
    (tmp_path / "weights").mkdir(exist_ok=True)
    (tmp_path / "weights" / entry.file).write_bytes(b"x")
    assert doctor.describe_installation()["weights"][name] == "available"


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert (
        doctor.describe_installation()["optional packages"]["onnxruntime"]
        == "missing; extra [onnx]"
    )

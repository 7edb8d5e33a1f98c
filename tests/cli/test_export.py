"""`toolkit export`: an export is kept only when it says what the run says."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.command import run
from tests.leaderboards.standin import Grey, grey  # noqa: F401
from toolkit.data.types import Sample
from toolkit.errors import ParityError, ToolkitError
from toolkit.methods.base import Exported
from toolkit.runs.run import Run

pytestmark = pytest.mark.usefixtures("grey")


def exporting(monkeypatch: pytest.MonkeyPatch, difference: float) -> list[Sequence[Sample]]:
    """Give the stand-in an export that is off by `difference`; collect what it was checked on."""
    seen: list[Sequence[Sample]] = []

    def export(self: Grey, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        seen.append(samples)
        (out / "model.onnx").write_bytes(b"model")
        return Exported(("model.onnx",), difference, 1e-3, f"scores of {len(samples)} images")

    monkeypatch.setattr(Grey, "export", export)
    return seen


def test_an_export_that_agrees(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = exporting(monkeypatch, 1e-3)
    result = run("export", finished.path, "--to", "checkpoint")
    out = Path("exported/grey-001")
    assert result.stdout.split() == [str(out / "model.onnx")]
    assert (out / "model.onnx").read_bytes() == b"model"
    record = json.loads((out / "export.json").read_text())
    assert record["threshold"] == finished.metrics()["thresholds"][0]
    assert "no_threshold" not in record
    assert record["checked"] == "scores of 4 images"
    test = set(finished.record["split"]["test"])
    assert len(seen[0]) == 4
    assert {s.id for s in seen[0]} <= test
    assert {s.is_defect for s in seen[0]} == {True, False}


def test_a_threshold_that_does_not_fit_is_not_given(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(self: Grey, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        return Exported((), 0.0, 1e-3, "scores", no_threshold="chosen on other scores")

    monkeypatch.setattr(Grey, "export", export)
    run("export", finished.path, "--to", "checkpoint")
    record = json.loads(Path("exported/grey-001/export.json").read_text())
    assert record["threshold"] is None
    assert record["no_threshold"] == "chosen on other scores"


@pytest.mark.parametrize("difference", [1.1e-3, math.inf, math.nan])
def test_one_that_differs_is_not_kept(
    finished: Run, monkeypatch: pytest.MonkeyPatch, difference: float
) -> None:
    exporting(monkeypatch, difference)
    with pytest.raises(ParityError, match="differ by"):
        run("export", finished.path, "--to", "checkpoint", "--out", "here")
    assert not Path("here").exists()


def test_an_existing_folder_stays(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    exporting(monkeypatch, 0.0)
    Path("here").mkdir()
    Path("here/mine").write_text("")
    words = ("export", finished.path, "--to", "checkpoint", "--out", "here")
    with pytest.raises(ToolkitError, match="--overwrite"):
        run(*words)
    assert Path("here/mine").exists()
    run(*words, "--overwrite")
    assert sorted(p.name for p in Path("here").iterdir()) == ["export.json", "model.onnx"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ((), "grey has no such export"),
        (("--to", "checkpoint"), "grey has no files for other programs"),
        (("--data", "elsewhere"), "elsewhere"),  # the data has moved to where it is not
    ],
)
def test_what_cannot_be_exported(finished: Run, words: tuple[str, ...], match: str) -> None:
    with pytest.raises(ToolkitError, match=match):
        run("export", finished.path, *words)
    assert not Path("exported/grey-001").exists()


def test_a_precision_that_checkpoints_do_not_have(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporting(monkeypatch, 0.0)
    with pytest.raises(ToolkitError, match="a checkpoint has no --precision"):
        run("export", finished.path, "--to", "checkpoint", "--precision", "int8")


def test_an_unfinished_run(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    exporting(monkeypatch, 0.0)
    (finished.path / "metrics.json").unlink()
    with pytest.raises(ToolkitError, match="not finished"):
        run("export", finished.path, "--to", "checkpoint")

"""What several tests of the command line start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import run
from toolkit.runs.run import Run


@pytest.fixture
def finished(sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A finished run of the stand-in `grey`, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("grey.yaml").write_text("method: grey\n")
    assert run("train", "grey", "--config", "grey.yaml", "--data", sample_dir).exit_code == 0
    return Run.open("runs/grey/001")

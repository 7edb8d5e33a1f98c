"""`toolkit stress`: a plot per run, one table for several."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import run
from tests.leaderboards.standin import grey  # noqa: F401
from toolkit.errors import ToolkitError
from toolkit.runs.run import Run

pytestmark = pytest.mark.usefixtures("grey")


def test_stress(finished: Run, sample_dir: Path) -> None:
    result = run("stress", finished.path, "--data", sample_dir, "--changes", "darker,blur")
    assert result.exit_code == 0
    assert [line.split("|")[1].strip() for line in result.stdout.splitlines()[2:]] == [
        "unchanged", "darker", "blur",
    ]  # fmt: skip
    assert Path("stress/grey-001.png").is_file()
    assert Path("stress/grey-001.json").is_file()
    again = run("stress", finished.path, "--data", sample_dir, "--changes", "darker,blur")
    assert again.stdout == result.stdout
    with pytest.raises(ToolkitError, match="change fog: unknown"):
        run("stress", finished.path, "--data", sample_dir, "--changes", "fog")
    with pytest.raises(ToolkitError, match="--calibration: is of one run"):
        run("stress", finished.path, finished.path, "--data", sample_dir, "--calibration", "c.json")

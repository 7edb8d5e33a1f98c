"""`toolkit drift`: images or scores against a calibration card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.command import run
from tests.decisions.test_calibrate import write_images
from tests.leaderboards.standin import grey  # noqa: F401
from toolkit.errors import ToolkitError
from toolkit.runs.run import Run

pytestmark = pytest.mark.usefixtures("grey")
CARD = "calibrations/grey-001.json"


@pytest.fixture
def mean(finished: Run) -> float:
    mean = float(json.loads((finished.weights / "state.json").read_text())["mean"])
    good = write_images(Path("good"), mean + np.random.default_rng(0).normal(0, 3, 60))
    assert run("calibrate", finished.path, "--good", good).exit_code == 0
    return mean


def test_images_and_their_scores_give_the_same(finished: Run, mean: float) -> None:
    same = write_images(Path("same"), mean + np.random.default_rng(1).normal(0, 3, 60))
    dark = write_images(Path("dark"), mean - 20 + np.random.default_rng(2).normal(0, 3, 60))
    for folder, status in ((same, 0), (dark, 1)):
        by_images = run("drift", finished.path, folder, "--calibration", CARD)
        assert by_images.exit_code == status
        run("predict", finished.path, folder, "--out", "found")
        by_scores = run("drift", finished.path, "found/predictions.jsonl", "--calibration", CARD)
        assert (by_scores.exit_code, by_scores.stdout) == (status, by_images.stdout)
        assert ("drift: alarm after" in by_images.stdout) is (status == 1)


def test_a_file_without_scores(finished: Run, mean: float) -> None:
    Path("scores.txt").write_text("1.5\n\n2\nbad\n")
    with pytest.raises(ToolkitError, match=r"scores\.txt: line 4 holds no score"):
        run("drift", finished.path, "scores.txt", "--calibration", CARD)
    with pytest.raises(ToolkitError, match=r"gone\.txt: cannot be read"):
        run("drift", finished.path, "gone.txt", "--calibration", CARD)


def test_the_embedding_needs_images(finished: Run, mean: float) -> None:
    Path("scores.txt").write_text("1.5")
    with pytest.raises(ToolkitError, match=r"--embedding: needs a folder of images, not scores"):
        run("drift", finished.path, "scores.txt", "--calibration", CARD, "--embedding")
    for file in Path("good").iterdir():
        file.unlink()
    same = write_images(Path("same"), [mean])
    with pytest.raises(ToolkitError, match="its good images are not in good any more"):
        run("drift", finished.path, same, "--calibration", CARD, "--embedding")

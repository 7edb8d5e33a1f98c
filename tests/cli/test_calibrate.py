"""`toolkit calibrate`, and `toolkit predict` with the card that it writes."""

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


@pytest.fixture
def good(finished: Run) -> Path:
    mean = json.loads((finished.weights / "state.json").read_text())["mean"]
    return write_images(Path("good"), mean + np.random.default_rng(0).normal(0, 3, 60))


def test_calibrate_and_predict(finished: Run, good: Path) -> None:
    bad = write_images(Path("bad"), [1, 2, 3])
    result = run(
        "calibrate", finished.path, "--good", good, "--defects", bad, "--max-false-alarms", 0.05,
        "--max-reviews", 0.2, "--cost-escape", 100, "--cost-false-alarm", 1, "--defect-rate", 0.01,
    )  # fmt: skip
    assert result.exit_code == 0
    assert "at most 5 % of good products, at 95 % confidence" in result.stdout
    assert "escapes: 0 of 3 defective images" in result.stdout
    assert "least expected cost" in result.stdout
    card = Path("calibrations/grey-001.json")
    assert card.with_suffix(".html").is_file()
    result = run("predict", finished.path, good, bad, "--calibration", card)
    words = [line.split()[0] for line in result.stdout.splitlines()]
    assert set(words[:60]) == {"OK", "REVIEW"}
    assert words[60:] == ["NOK"] * 3
    records = [
        json.loads(line) for line in Path("predictions/predictions.jsonl").read_text().splitlines()
    ]
    assert [r["outcome"] for r in records] == words
    assert records[-1]["p_value"] == 1 / 61


def test_a_card_is_not_replaced_unasked(finished: Run, good: Path) -> None:
    assert run("calibrate", finished.path, "--good", good).exit_code == 0
    with pytest.raises(ToolkitError, match="already there"):
        run("calibrate", finished.path, "--good", good)
    assert run("calibrate", finished.path, "--good", good, "--overwrite").exit_code == 0


def test_costs_come_together(finished: Run, good: Path) -> None:
    with pytest.raises(ToolkitError, match="give all of --cost-escape"):
        run("calibrate", finished.path, "--good", good, "--cost-escape", 3)
    with pytest.raises(ToolkitError, match=r"must end in \.json"):
        run("calibrate", finished.path, "--good", good, "--out", "card.yaml")


def test_cross_fitting_instead_of_held_back_images(finished: Run, good: Path) -> None:
    result = run("calibrate", finished.path, "--cross-fit", 2, "--max-false-alarms", 0.2)
    assert result.exit_code == 0
    assert "scored by one of 2 models that lack it" in result.stdout
    with pytest.raises(ToolkitError, match=r"holds scores of other models.*--good FOLDER"):
        run("drift", finished.path, good, "--calibration", "calibrations/grey-001.json")
    for options in ((), ("--good", good, "--cross-fit", 2)):
        with pytest.raises(ToolkitError, match="give either --good FOLDER"):
            run("calibrate", finished.path, *options)

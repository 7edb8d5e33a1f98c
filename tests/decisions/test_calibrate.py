"""Calibrating a run: the card, what is refused, and predicting with the card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.leaderboards.standin import Grey, GreyPredictor, grey  # noqa: F401
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.decisions.calibrate import Prices, calibrate
from toolkit.decisions.calibration import false_alarm_threshold
from toolkit.decisions.card import CalibrationCard, model_sha256, training_sha256
from toolkit.decisions.page import card_lines, card_page
from toolkit.errors import ConfigError, DataError, RunError
from toolkit.inference.model import Model, load_model
from toolkit.prediction import Prediction
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training

pytestmark = pytest.mark.usefixtures("grey")


def write_images(folder: Path, greys: Sequence[float], size: int = 20) -> Path:
    """Write images whose mean grey is as given (to one 400th)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, value in enumerate(greys):
        array = np.full(size * size, int(value), np.uint8)
        array[: round((value - int(value)) * array.size)] += 1
        Image.fromarray(np.stack([array.reshape(size, size)] * 3, axis=2)).save(
            folder / f"{number:03d}.png"
        )
    return folder


@pytest.fixture
def good(tmp_path: Path, mean: float) -> Path:
    rng = np.random.default_rng(0)
    return write_images(tmp_path / "good", mean + rng.normal(0, 3, 60))


@pytest.fixture
def bad(tmp_path: Path, mean: float) -> Path:
    return write_images(tmp_path / "bad", [mean + 4, *(mean + 20 + i / 8 for i in range(9))])


def test_the_thresholds_are_those_of_the_scores(model: Model, good: Path) -> None:
    card = calibrate(model, good, max_false_alarms=0.05, max_reviews=0.2).card
    scores = [r.score for r in model(good)]
    assert card.nok == false_alarm_threshold(scores, max_false_alarms=0.05)
    assert card.review == false_alarm_threshold(scores, max_false_alarms=0.2)
    assert card.good_scores.tolist() == sorted(scores, reverse=True)
    assert card.nok.holds_request


def test_a_card_is_read_as_it_was_written(
    model: Model, good: Path, bad: Path, tmp_path: Path
) -> None:
    found = calibrate(model, good, defects=bad, max_reviews=0.2, prices=Prices(100, 1, 0.01))
    found.card.write(tmp_path / "card.json")
    assert CalibrationCard.read(tmp_path / "card.json") == found.card


def test_escapes_costs_and_pictures(model: Model, good: Path, bad: Path) -> None:
    found = calibrate(model, good, defects=bad, max_false_alarms=0.05, prices=Prices(100, 1, 0.01))
    defects, costs = found.card.defects, found.card.costs
    assert defects is not None
    assert costs is not None
    assert (defects["escapes"], defects["images"]) == (1, 10)
    assert [r.name for r in found.escaped] == ["000.png"]
    assert costs["escape_rate"] <= defects["escape_rate"]
    scores = [r.score for r in found.worst_good]
    assert scores == found.card.good_scores[:5].tolist()
    page = card_page(found)
    assert page.count("<img") == 6
    assert "escapes: 1 of 10 defective images" in page


def test_too_few_images_say_how_many_it_takes(model: Model, tmp_path: Path, mean: float) -> None:
    few = write_images(tmp_path / "few", [mean + i / 10 for i in range(20)])
    card = calibrate(model, few).card
    assert card.nok.promised_false_alarms == pytest.approx(1 - 0.05 ** (1 / 20))
    text = "\n".join(card_lines(card))
    assert "at most 14 % of good products, at 95 % confidence (0 of the 20)" in text
    assert "1 % cannot be promised with 20 good images: it takes 299" in text


def test_a_defect_among_the_good_images_is_named(model: Model, good: Path, mean: float) -> None:
    write_images(good / "more", [mean + 60])
    found = calibrate(model, good)
    assert found.card.suspicious == ("more/000.png",)
    assert found.worst_good[0].path == good / "more/000.png"
    assert "more/000.png" in card_lines(found.card)[-1]


def test_equal_images_count_once(model: Model, good: Path) -> None:
    shutil.copyfile(good / "000.png", good / "zzz.png")
    found = calibrate(model, good)
    assert found.duplicates == ("zzz.png",)
    assert found.card.nok.n_good == 60


@pytest.mark.parametrize("place", ["good", "defects"])
def test_training_images_are_refused(
    place: str, model: Model, good: Path, bad: Path, sample_dir: Path
) -> None:
    trained = sample_dir / model.run.record["split"]["train"][0]
    shutil.copyfile(trained, (good if place == "good" else bad) / "renamed.png")
    with pytest.raises(DataError, match=r"renamed\.png: the run was trained on this image"):
        calibrate(model, good, defects=bad)


def test_training_images_of_the_runs_that_it_reads_count(
    run: Run, sample_dir: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(sample_dir)
    split = make_plan(dataset, folds=3).fold(dataset, 1)
    task = TrainingTask("grey", "b", inputs={"prompt_run": "grey/001"}, device="cpu", name="b")
    second = run_training(task, split, runs=tmp_path / "runs")
    own = set(second.record["split"]["train_sha256"])
    assert training_sha256(second) == own | set(run.record["split"]["train_sha256"])
    assert training_sha256(second) > own


def test_a_run_without_record_of_its_images(model: Model, good: Path) -> None:
    del model.run.record["split"]["train_sha256"]
    with pytest.raises(RunError, match="train it again"):
        calibrate(model, good)


def test_other_refusals(model: Model, good: Path, bad: Path, tmp_path: Path) -> None:
    one = write_images(tmp_path / "one", [100])
    with pytest.raises(DataError, match="1 image; a calibration needs at least two"):
        calibrate(model, one)
    with pytest.raises(DataError, match="no such folder"):
        calibrate(model, tmp_path / "gone")
    with pytest.raises(DataError, match="max_false_alarms=2"):
        calibrate(model, good, max_false_alarms=2)
    with pytest.raises(DataError, match="confidence=0"):
        calibrate(model, good, confidence=0)
    with pytest.raises(ConfigError, match=r"max_reviews=0\.01: must be above"):
        calibrate(model, good, max_reviews=0.01)
    with pytest.raises(ConfigError, match="need defective images"):
        calibrate(model, good, prices=Prices(1, 1, 0.1))
    with pytest.raises(DataError, match="cost_escape=-1"):
        calibrate(model, good, defects=bad, prices=Prices(-1, 1, 0.1))
    with pytest.raises(DataError, match=r"defect_rate=1\.1"):
        calibrate(model, good, defects=bad, prices=Prices(1, 1, 1.1))
    shutil.copyfile(good / "003.png", bad / "again.png")
    with pytest.raises(DataError, match=r"again\.png: is also in"):
        calibrate(model, good, defects=bad)
    write_images(bad / "good", [7])
    with pytest.raises(DataError, match="in a folder named good"):
        calibrate(model, good, defects=bad)


def test_a_score_that_is_not_finite(
    model: Model, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GreyPredictor, "predict", lambda self, images: [Prediction(float("nan"))])
    with pytest.raises(RunError, match=r"the score of 000\.png is nan"):
        calibrate(model, good)


def test_predicting_with_a_card(run: Run, good: Path, bad: Path) -> None:
    card = calibrate(load_model(run), good, max_false_alarms=0.05, max_reviews=0.2).card
    model = load_model(run, calibration=card)
    assert model.threshold == card.nok.value
    assert card.review is not None
    for result in [*model(good), *model(bad)]:
        wanted = "OK" if result.score < card.review.value else "REVIEW"
        wanted = "NOK" if result.score >= card.nok.value else wanted
        assert result.outcome is not None
        assert (result.outcome.value, result.is_defect) == (wanted, wanted == "NOK")
        higher = int((card.good_scores >= result.score).sum())
        assert result.p_value == (1 + higher) / 61
        assert result.summary().startswith(wanted + " ")
        assert result.to_dict()["outcome"] == wanted


def test_without_a_card_the_outcome_is_that_of_the_run(model: Model, bad: Path) -> None:
    for result in model(bad):
        assert result.outcome is not None
        assert (result.outcome.value == "NOK") is result.is_defect
        assert result.p_value is None
        assert "p_value" not in result.to_dict()


def test_the_card_of_another_model_is_refused(run: Run, good: Path, tmp_path: Path) -> None:
    card = calibrate(load_model(run), good).card
    moved = tmp_path / "moved"
    shutil.copytree(run.path, moved)
    load_model(moved, calibration=card)
    (moved / "weights/state.json").write_text('{"mean": 1.0, "classes": ["a"]}')
    with pytest.raises(RunError, match="was made for another model"):
        load_model(moved, calibration=card)
    assert model_sha256(Run.open(moved)) != model_sha256(run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a calibration card"),
        ('{"kind": "calibration card", "schema": 9}', "of schema 9"),
        ('{"kind": "calibration card", "schema": 1}', "damaged"),
    ],
)
def test_a_damaged_card(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(RunError, match=message):
        CalibrationCard.read(tmp_path / "card.json")


def test_a_card_with_a_threshold_that_is_no_number(
    model: Model, good: Path, tmp_path: Path
) -> None:
    record = calibrate(model, good).card.to_dict()
    record["nok"]["value"] = "high"
    (tmp_path / "card.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="damaged"):
        CalibrationCard.read(tmp_path / "card.json")

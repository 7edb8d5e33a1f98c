"""Feedback: overruled images change the bank, and no model that lost takes over."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.data.images import read_rgb
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.decisions.calibrate import calibrate
from toolkit.decisions.outcomes import Outcome
from toolkit.errors import DataError, RunError
from toolkit.inference.model import Model, load_model
from toolkit.line.compare import decide
from toolkit.line.feedback import give_feedback
from toolkit.line.ledger import Ledger
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training

SMALL = {
    "backbone": "resnet18", "weights": "none", "image_size": 64, "coreset_size": 60,
    "position": "off",  # the moments at each place are not extended
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, sample_dir: Path) -> Path:
    """`frozen/` with ok/ and nok/, `good/` to calibrate with, and `stream/`: good, with a mark."""
    folder = tmp_path_factory.mktemp("feedback")
    for image in sorted(sample_dir.glob("test/*/*.png")):
        place = folder / "frozen" / ("ok" if image.parent.name == "good" else "nok")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, place / f"{image.parent.name}-{image.name}")
    rng = np.random.default_rng(0)
    (folder / "good").mkdir()
    (folder / "stream").mkdir()
    for number, image in enumerate(sorted(sample_dir.glob("train/good/*.png"))):
        array = read_rgb(image).astype(np.int64)
        noisy = (array + rng.normal(0, 2, array.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "good" / f"{number}.png")
        noisy[8:20, 8:20] = (255, 0, 255)  # a sticker: unusual, and good
        Image.fromarray(noisy).save(folder / "stream" / f"{number}.png")
    return folder


def train(method: str, sample_dir: Path, runs: Path, folders: Path) -> Model:
    dataset = load_dataset(sample_dir)
    plan = make_plan(dataset, protocol="supervised", folds=3)
    task = TrainingTask(method, method, settings=SMALL, device="cpu")
    run = run_training(task, plan.fold(dataset, 0), runs=runs)
    card = calibrate(load_model(run), folders / "good", max_false_alarms=0.3).card
    return load_model(run, calibration=card)


@pytest.fixture(scope="module")
def model(sample_dir: Path, folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return train("patchcore", sample_dir, tmp_path_factory.mktemp("runs"), folders)


def test_overruled_good_images_are_learned(model: Model, folders: Path, tmp_path: Path) -> None:
    stream = sorted((folders / "stream").glob("*.png"))
    assert {o for o, _ in decide(model, stream)} == {Outcome.NOK}
    messages: list[str] = []
    learned = give_feedback(
        model, stream[:6], tmp_path, truth="ok", who="ann", frozen=folders / "frozen",
        say=messages.append,
    )  # fmt: skip
    assert learned is not None
    assert learned.comparison is not None
    assert learned.comparison.overkill[1] < learned.comparison.overkill[0]
    assert learned.run is not None
    new = load_model(learned.run, calibration=learned.card)
    assert new.threshold is not None
    assert model.threshold is not None
    assert new.threshold <= model.threshold
    again = calibrate(load_model(learned.run), folders / "good", max_false_alarms=0.3).card
    assert new.calibration is not None
    assert new.calibration.nok == again.nok  # the same promise, by the scores of the new model
    before = [score for _, score in decide(model, stream[6:])]
    after = [score for _, score in decide(new, stream[6:])]
    assert np.all(np.array(after) < np.array(before))
    ledger = Ledger(tmp_path / "ledger.sqlite", read_only=True)
    rows = ledger.feedback()
    assert {row["who"] for row in rows} == {"ann"}
    assert all(row["outcome"] == learned.text for row in rows)
    assert ledger.overruled() == {"feedback": 6, "overruled": 6}
    assert len(load_dataset(tmp_path / "labelled")) == 6
    if learned.accepted:
        assert learned.comparison.escapes[1] <= learned.comparison.escapes[0]
        assert {row["new_model"] for row in rows} == {str(learned.run.path)}


def test_a_card_whose_images_are_gone_keeps_its_thresholds(
    model: Model, folders: Path, tmp_path: Path
) -> None:
    assert model.calibration is not None
    gone = replace(model.calibration, good={**model.calibration.good, "folder": "gone"})
    old = load_model(model.run, calibration=gone)
    learned = give_feedback(
        old, [folders / "stream/0.png"], tmp_path, truth="ok", who="x", frozen=folders / "frozen"
    )
    assert learned is not None
    assert learned.run is not None
    assert load_model(learned.run, calibration=learned.card).threshold == old.threshold


def test_a_model_that_loses_a_defect_is_refused(
    model: Model, folders: Path, tmp_path: Path
) -> None:
    """A model that learned defects as good no longer finds them on the frozen set."""
    defects = [p for p in sorted((folders / "frozen/nok").glob("*.png"))
               if decide(model, [p])[0][0] is Outcome.NOK]  # fmt: skip
    assert defects
    for defect in defects:
        learned = give_feedback(
            model, [defect], tmp_path, truth="ok", who="bob", frozen=folders / "frozen"
        )
        assert learned is not None
        if learned.comparison is not None and not learned.accepted:
            break
    assert learned.comparison is not None
    assert learned.comparison.lost
    assert learned.comparison.escapes[1] > learned.comparison.escapes[0]
    assert not learned.accepted
    assert learned.text.startswith("refused")
    rows = Ledger(tmp_path / "ledger.sqlite", read_only=True).feedback()
    assert rows[-1]["new_model"] == ""


def test_without_a_frozen_set_it_is_kept(model: Model, folders: Path, tmp_path: Path) -> None:
    image = folders / "stream/0.png"
    mask = tmp_path / "mask.png"
    Image.fromarray(np.full((128, 128), 255, np.uint8)).save(mask)
    assert give_feedback(model, [image], tmp_path, truth="nok", who="x", mask=mask) is None
    (sample,) = load_dataset(tmp_path / "labelled")
    assert sample.is_defect
    assert len(sample.masks) == 1
    give_feedback(model, [image], tmp_path, truth="ok", who="x")  # thought better of it
    (sample,) = load_dataset(tmp_path / "labelled")
    assert not sample.is_defect
    with pytest.raises(DataError, match="no mask"):
        give_feedback(model, [image], tmp_path, truth="ok", who="x", mask=mask)
    with pytest.raises(DataError, match="needs images in both ok/ and nok/"):
        give_feedback(model, [image], tmp_path, truth="ok", who="x", frozen=tmp_path / "none")


def test_a_method_that_cannot_learn_keeps_it(grey_run: Run, folders: Path, tmp_path: Path) -> None:
    model = load_model(grey_run)
    image = tmp_path / "bright.png"
    Image.fromarray(np.full((32, 32, 3), 250, np.uint8)).save(image)
    with pytest.raises(RunError, match="does not learn from feedback at once"):
        give_feedback(model, [image], tmp_path, truth="ok", who="x", frozen=folders / "frozen")
    assert len(load_dataset(tmp_path / "labelled")) == 1
    (row,) = Ledger(tmp_path / "ledger.sqlite", read_only=True).feedback()
    assert row["outcome"].startswith("not learned: ")


def test_escapes_go_into_the_bank_of_defects(
    sample_dir: Path, folders: Path, tmp_path: Path
) -> None:
    model = train("patchcore+", sample_dir, tmp_path / "runs", folders)
    image = tmp_path / "escape.png"
    array = read_rgb(folders / "good/0.png").copy()
    array[60:76, 60:76] = array[60:76, 60:76] // 2 + 60
    Image.fromarray(array).save(image)
    mask = np.zeros((128, 128), np.uint8)
    mask[60:76, 60:76] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    ((outcome, before),) = decide(model, [image])
    if outcome is not Outcome.OK:
        pytest.skip("this escape is found on this machine")
    learned = give_feedback(
        model, [image], tmp_path, truth="nok", who="x", mask=tmp_path / "mask.png",
        frozen=folders / "frozen",
    )  # fmt: skip
    assert learned is not None
    assert learned.run is not None
    ((_, after),) = decide(load_model(learned.run, calibration=learned.card), [image])
    assert after > before

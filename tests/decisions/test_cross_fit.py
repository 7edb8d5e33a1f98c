"""Cross-fitting: each good training image is scored by a model that did not learn from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.leaderboards.standin import Grey, grey  # noqa: F401
from toolkit.data.images import read_rgb
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.types import Dataset
from toolkit.decisions.calibrate import calibrate
from toolkit.decisions.card import CalibrationCard
from toolkit.decisions.cross_fit import cross_fit
from toolkit.decisions.page import card_lines, card_page
from toolkit.errors import DataError, RunError
from toolkit.inference.model import Model, load_model
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training

pytestmark = pytest.mark.usefixtures("grey")


@pytest.fixture
def dataset(sample_dir: Path) -> Dataset:
    return load_dataset(sample_dir)


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_scores_are_of_models_without_the_image(run: Run, dataset: Dataset) -> None:
    before = files(run.path)
    found = cross_fit(run, dataset, folds=4)
    assert files(run.path) == before
    train = [dataset.by_id[name] for name in run.record["split"]["train"]]
    good = [s for s in train if not s.is_defect]
    assert sorted(s.id for s in found.samples) == sorted(s.id for s in good)
    grey_of = {s.id: float(read_rgb(s.image).mean()) for s in train}
    for part in range(4):  # image i is in part i % 4; defects train every model
        left_out = {s.id for s in found.samples[part::4]}
        mean = np.mean([grey_of[s.id] for s in train if s.id not in left_out])
        for sample, score in list(zip(found.samples, found.scores, strict=True))[part::4]:
            assert score == pytest.approx(abs(grey_of[sample.id] - mean))


def test_finished_parts_are_not_fitted_again(
    run: Run, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    Grey.fits.clear()
    fit = Grey.fit

    def stop_at_the_third(self: Grey, *args: object) -> None:
        if len(Grey.fits) == 2:
            raise KeyboardInterrupt
        fit(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Grey, "fit", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        cross_fit(run, dataset, folds=3)
    monkeypatch.setattr(Grey, "fit", fit)
    found = cross_fit(run, dataset, folds=3)
    assert len(Grey.fits) == 3
    assert cross_fit(run, dataset, folds=3) == found
    assert len(Grey.fits) == 3


def test_copies_of_an_image_are_left_out_together(sample_dir: Path, tmp_path: Path) -> None:
    import shutil

    place = tmp_path / "copies"
    shutil.copytree(sample_dir, place)
    first = sorted((place / "train/good").iterdir())[0]
    shutil.copyfile(first, first.with_name("zzz.png"))
    dataset = load_dataset(place)
    split = make_plan(dataset, folds=3).fold(dataset, 0)
    run = run_training(TrainingTask("grey", "g", device="cpu"), split, runs=tmp_path / "r")
    found = cross_fit(run, dataset, folds=2)
    contents = [dataset.content[s.id] for s in found.samples]
    assert len(contents) == len(set(contents))


def test_a_calibration_from_cross_fitting(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    found = calibrate(model, cross_fit(model.run, dataset, folds=3), max_false_alarms=0.2)
    card = found.card
    split = model.run.record["split"]
    good = [n for n in (*split["train"], *split["val"]) if not dataset.by_id[n].is_defect]
    assert sorted(image["name"] for image in card.good["images"]) == sorted(good)
    assert card.cross_fit == 3
    text = "\n".join(card_lines(card))
    assert "scored by one of 3 models that lack it" in text
    assert "an estimate" in text
    assert card_page(found).count("<img") == 5
    card.write(tmp_path / "card.json")
    assert CalibrationCard.read(tmp_path / "card.json") == card
    assert load_model(model.run, calibration=card).threshold == card.nok.value


@pytest.mark.parametrize("folds", [-1, 0, 1, 500])
def test_a_wrong_number_of_folds(folds: int, run: Run, dataset: Dataset) -> None:
    with pytest.raises(DataError, match=f"cross-fit {folds}: give 2 to"):
        cross_fit(run, dataset, folds=folds)


def test_runs_that_read_others_are_refused(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    split = make_plan(dataset, folds=3).fold(dataset, 0)
    task = TrainingTask("grey", "b", inputs={"prompt_run": "grey/001"}, device="cpu", name="b")
    second = run_training(task, split, runs=tmp_path / "runs")
    with pytest.raises(RunError, match=r"reads another run.*--good FOLDER"):
        cross_fit(second, dataset)


def test_other_data_is_refused(run: Run, tmp_path: Path) -> None:
    from toolkit.data.synthetic import make_sample

    other = make_sample(tmp_path / "other", seed=9, size=64, train_good=4, test_good=3,
                        per_defect=3)  # fmt: skip
    with pytest.raises(RunError, match="is not the data of this run"):
        cross_fit(run, load_dataset(other))

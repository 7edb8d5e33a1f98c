"""The stress test of a run: frozen threshold, nothing computed twice, plot and table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.leaderboards.standin import GreyPredictor, grey  # noqa: F401
from toolkit.data.images import read_rgb, read_truth
from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset
from toolkit.decisions.changes import STRENGTHS, changed
from toolkit.decisions.stress import images_to_stress, read_stress, stress
from toolkit.decisions.stress_render import plot_stress, stress_table
from toolkit.errors import DataError, RunError
from toolkit.inference.model import Model
from toolkit.metrics.pixel import pixel_metrics

pytestmark = pytest.mark.usefixtures("grey")


@pytest.fixture
def dataset(sample_dir: Path) -> Dataset:
    return load_dataset(sample_dir)


def test_figures_are_those_of_the_changed_images(model: Model, dataset: Dataset) -> None:
    found = stress(model, dataset, changes=["darker", "shift"], seed=3)
    metrics = model.run.metrics()
    assert found.threshold == model.threshold
    assert found.unchanged.auroc == metrics["image"]["auroc"]
    assert found.unchanged.escapes == metrics["at_threshold"]["escapes"]
    assert found.unchanged.overkill == metrics["at_threshold"]["overkill"]
    samples = images_to_stress(model, dataset)
    assert [s.id for s in samples] == model.run.record["split"]["test"]
    for kind in ("darker", "shift"):
        pairs, wrong = [], [0, 0]
        for number, sample in enumerate(samples):
            image, mask = changed(
                read_rgb(sample.image), read_truth(sample), kind, 4, seed=3, number=number
            )
            assert mask is not None
            (result,) = model(image)
            wrong[not sample.is_defect] += result.is_defect is not sample.is_defect
            assert result.prediction.anomaly_map is not None
            # The stand-in's map has every fourth pixel.
            coarse = mask.reshape(32, 4, 32, 4).any(axis=(1, 3))
            pairs.append((result.prediction.anomaly_map, coarse))
        cell = found.cells[kind][3]
        assert [cell.escapes, cell.overkill] == wrong
        assert cell.pixel_auroc == pytest.approx(pixel_metrics(pairs).auroc)
    assert found.cells["darker"][4].overkill == found.n_good


def test_nothing_is_computed_twice(
    model: Model, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "stress.json"
    whole = stress(model, dataset, changes=["blur"], out=out)
    assert read_stress(out) == whole
    record = json.loads(out.read_text())
    del record["cells"]["blur 2"]
    out.write_text(json.dumps(record))
    calls = []
    predict = GreyPredictor.predict
    monkeypatch.setattr(
        GreyPredictor, "predict", lambda self, i: calls.append(1) or predict(self, i)
    )
    assert stress(model, dataset, changes=["blur"], out=out) == whole
    assert len(calls) == whole.n_good + whole.n_defect
    # More changes are added to the same file.
    assert set(stress(model, dataset, changes=["jpeg"], out=out).cells) == {"jpeg"}
    assert set(read_stress(out).cells) == {"blur", "jpeg"}
    with pytest.raises(RunError, match="of another model, threshold, seed or of other images"):
        stress(model, dataset, changes=["blur"], seed=1, out=out)
    out.write_text("{}")
    with pytest.raises(RunError, match="is no stress test"):
        stress(model, dataset, changes=["blur"], out=out)
    with pytest.raises(RunError, match="no stress test, or damaged"):
        read_stress(out)


def test_other_images_but_those_it_was_trained_on(
    model: Model, dataset: Dataset, tmp_path: Path
) -> None:
    place = tmp_path / "other"
    trained = next(n for n in model.run.record["split"]["train"] if n.startswith("test/"))
    for name, source in (
        ("train/good/0.png", dataset.samples[0].image),
        ("test/good/0.png", dataset.by_id[model.run.record["split"]["test"][0]].image),
        ("test/good/trained.png", dataset.by_id[trained].image),
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(Path(source).read_bytes())
    with pytest.raises(DataError, match="1 good and 0 defective test images"):
        stress(model, load_dataset(place))
    (place / "test/bad").mkdir()
    Image.fromarray(np.full((128, 128, 3), 9, np.uint8)).save(place / "test/bad/0.png")
    (place / "ground_truth/bad").mkdir(parents=True)
    Image.fromarray(np.full((128, 128), 255, np.uint8)).save(place / "ground_truth/bad/0_mask.png")
    found = images_to_stress(model, load_dataset(place))
    assert [s.id for s in found] == ["test/bad/0.png", "test/good/0.png"]


def test_wrong_names_and_no_threshold(model: Model, dataset: Dataset) -> None:
    with pytest.raises(DataError, match="change blurr: unknown; did you mean 'blur'"):
        stress(model, dataset, changes=["blurr"])
    model.threshold = None
    with pytest.raises(RunError, match="has no threshold"):
        stress(model, dataset)


def test_plot_and_table(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    found = stress(model, dataset, changes=["darker", "noise"])
    plot_stress(found, tmp_path / "plot.png")
    assert min(read_rgb(tmp_path / "plot.png").shape[:2]) > 200
    lines = stress_table([found, found]).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [
        "change", "---|---|---|---|---|---|---", "unchanged", "darker", "noise",
    ]  # fmt: skip
    assert lines[0].count("grey/001: AUROC") == 2
    cells = found.cells["darker"]
    wanted = " / ".join(str(cells[s - 1].overkill) for s in (1, 3, 5))
    assert lines[3].endswith(f"| {wanted} |")
    assert len(cells) == len(STRENGTHS)

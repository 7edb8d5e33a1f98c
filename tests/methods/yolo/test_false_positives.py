"""False positives per good image, at the threshold of validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolkit.data.types import Sample
from toolkit.methods.yolo.false_positives import false_positives
from toolkit.prediction import Boxes, Prediction
from toolkit.runs.prediction_io import write_predictions
from toolkit.runs.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path, method="yolo", settings={}, split={}, data={}, seed=0)


def _part(run: Run, part: str, *images: tuple[str, list[float]]) -> list[Sample]:
    """Store predictions; images are their label and the scores of their boxes."""
    samples, predictions = [], []
    for i, (label, scores) in enumerate(images):
        name = f"{part}/{i}.png"
        masks = () if label == "good" else (Path("mask.png"),)
        samples.append(Sample(id=name, image=Path(name), label=label, masks=masks))
        boxes = Boxes(
            np.tile(np.array([[0, 0, 4, 4]], np.float32), (len(scores), 1)),
            np.array(scores, np.float32),
            ("dent",) * len(scores),
        )
        predictions.append(Prediction(max(scores, default=0.0), sample_id=name, boxes=boxes))
    write_predictions(run.predictions, part, iter(predictions))
    return samples


def test_boxes_of_good_images_count_from_the_threshold_on(run: Run) -> None:
    # Validation parts at 0.5: the middle between 0.2 and 0.8.
    val = _part(run, "val", ("good", [0.2, 0.1]), ("dent", [0.8]))
    test = _part(
        run, "test", ("good", [0.9, 0.6, 0.4]), ("good", []), ("dent", [0.9, 0.9]), ("good", [0.3])
    )
    found = false_positives(run, val, test)
    assert found["threshold"] == pytest.approx(0.5, abs=1e-6)
    assert found["per_good_image_val"] == 0
    assert found["per_good_image_test"] == pytest.approx(2 / 3)


def test_without_good_images_there_is_no_such_figure(run: Run) -> None:
    val = _part(run, "val", ("good", [0.2]), ("dent", [0.8]))
    test = _part(run, "test", ("dent", [0.9]))
    figure = false_positives(run, val, test)["per_good_image_test"]
    assert figure == {"value": None, "reason": "no good images in test"}


@pytest.mark.parametrize("label", ["good", "dent"])
def test_without_both_kinds_in_validation_there_is_no_threshold(run: Run, label: str) -> None:
    val = _part(run, "val", (label, [0.2]))
    test = _part(run, "test", ("good", [0.9]))
    assert false_positives(run, val, test)["threshold"] is None

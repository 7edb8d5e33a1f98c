"""A threshold from good validation images alone, for a user without a single defect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolkit.data.layouts import load_dataset
from toolkit.prediction import Prediction
from toolkit.runs.evaluate import choose_threshold
from toolkit.runs.prediction_io import write_predictions
from toolkit.runs.run import Run


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 5.5),  # best F1: between the highest good score, 1, and the defect's, 10
        ({"target_fpr": 0.0}, 5.5),
        ({"target_fpr": 0.5}, 0.5),  # one of the two good images, 0 and 1, may be flagged
        ({"target_fpr": 0.01}, pytest.approx(1.0)),  # none: just above the highest
    ],
)
def test_threshold(
    settings: dict[str, Any], expected: float, sample_dir: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(sample_dir)
    good = [s.id for s in dataset if not s.is_defect][:2]
    defect = next(s.id for s in dataset if s.is_defect)
    ids = [*good, defect]
    run = Run.create(
        tmp_path,
        method="any",
        settings=settings,
        split={"val": ids, "test": [], "train": []},
        data={"fingerprint": dataset.fingerprint},
    )
    scores = zip(ids, (0.0, 1.0, 10.0), strict=True)
    write_predictions(run.predictions, "val", [Prediction(sample_id=i, score=s) for i, s in scores])
    found = choose_threshold(run, dataset)
    assert found == expected
    if settings.get("target_fpr") == 0.01:
        assert found is not None
        assert found > 1.0

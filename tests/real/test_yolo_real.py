"""Both detectors learn the real bottle: a short training on fold 0, evaluated on validation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.parity import check_onnx
from toolkit.config import settings_dict
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.errors import WeightsError
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.registry import method_class
from toolkit.methods.yolo.network import pretrained_names
from toolkit.runs.environment import seed_everything
from toolkit.runs.run import Run
from toolkit.weights.resolve import resolve_weights


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("name", ["yolo", "yolo-world"])
def test_a_short_training_finds_defects(
    name: str, bottle_dir: Path, real_home: Path, tmp_path: Path
) -> None:
    cls = method_class(name)
    settings = cls.Settings(epochs=8, image_size=192, background_images="4", close_mosaic=3)
    try:
        resolve_weights("pretrained", pretrained_names(settings.model), network=settings.model)
    except WeightsError as error:
        pytest.skip(f"pretrained weights cannot be fetched here: {error}")
    dataset = load_dataset(bottle_dir)
    split = make_plan(dataset).fold(dataset, 0)
    run = Run.create(
        tmp_path, method=name, settings=settings_dict(settings), split={}, data={}, seed=0
    )
    seed_everything(0)
    method = cls(settings)
    method.fit(split, run)

    assert max(float(row["val_map50"]) for row in run.results()) > 0.4
    predictions = list(predict_samples(method.load(run), split.val))
    defect = [p.score for p, s in zip(predictions, split.val, strict=True) if s.is_defect]
    good = [p.score for p, s in zip(predictions, split.val, strict=True) if not s.is_defect]
    above = sum(d > g for d in defect for g in good) / (len(defect) * len(good))
    assert above > 0.7  # image AUROC on validation

    check_onnx(method.load(run), split.val[::6], tmp_path)

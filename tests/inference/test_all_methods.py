"""Every method predicts in one way: files, arrays, the command and the stored predictions agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import toolkit
from tests.cli.command import run as command
from toolkit.data.images import read_rgb
from toolkit.methods.registry import _BUILT_IN
from toolkit.runs.prediction_io import read_predictions

pytestmark = pytest.mark.slow

_FEATURES: dict[str, Any] = {"weights": "none", "image_size": 64}
_YOLO: dict[str, Any] = {"weights": "none", "image_size": 64, "epochs": 1, "background_images": "2"}
SMALL: dict[str, dict[str, Any]] = {
    "classifier": {**_FEATURES, "network": "resnet18", "head_epochs": 1, "finetune_epochs": 1},
    "devnet": {**_FEATURES, "steps": 5, "synthetic_defects_count": 4},
    "feature-autoencoder": {**_FEATURES, "epochs": 1, "width": 16, "bottleneck": 4},
    "padim": {**_FEATURES, "n_features": 10},
    "patchcore": {**_FEATURES, "coreset_size": 50},
    "patchcore+": {**_FEATURES, "coreset_size": 50, "synthetic_defects_count": 4},
    "sam": {"weights": "none", "epochs": 0, "points_per_side": 2},
    "yolo": _YOLO,
    "yolo-world": {**_YOLO, "text_embeddings": "orthonormal"},
}


def test_no_method_is_missing() -> None:
    assert set(SMALL) == set(_BUILT_IN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("method", sorted(SMALL))
def test_one_way_to_predict(
    method: str, folder: Path, sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = toolkit.train(method, sample_dir, runs=folder, device="cpu", **SMALL[method])
    before = {f: f.read_bytes() for f in sorted(run.path.rglob("*")) if f.is_file()}
    stored = list(read_predictions(run.predictions, "test"))[:3]
    paths = [sample_dir / str(p.sample_id) for p in stored]
    arrays = [read_rgb(path) for path in paths]

    model = toolkit.load_model(run.path)
    wanted = model.predict(paths)
    assert [r.score for r in wanted] == [p.score for p in stored]
    for source in (arrays, (Image.fromarray(one) for one in arrays)):
        for found, result in zip(model(source), wanted, strict=True):
            _assert_equal(found, result)
    for array, result in zip(arrays, wanted, strict=True):  # alone, and not in a batch
        _assert_equal(model(array)[0], result)

    assert command("predict", run.path, *paths).exit_code == 0
    lines = Path("predictions/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["score"] for line in lines] == [r.score for r in wanted]
    after = {f: f.read_bytes() for f in sorted(run.path.rglob("*")) if f.is_file()}
    assert after == before, "prediction wrote into a finished run"


def _assert_equal(found: toolkit.Result, wanted: toolkit.Result) -> None:
    assert found.score == wanted.score
    assert found.class_probabilities == wanted.class_probabilities
    for name in ("mask", "anomaly_map"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)
    assert (found.boxes is None) == (wanted.boxes is None)
    if found.boxes is not None and wanted.boxes is not None:
        np.testing.assert_array_equal(found.boxes.xyxy, wanted.boxes.xyxy)
        assert found.boxes.labels == wanted.boxes.labels

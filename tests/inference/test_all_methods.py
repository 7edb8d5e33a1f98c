"""Every method predicts in one way: files, arrays, the command and the stored predictions agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import toolkit
from tests.cli.command import run as command
from tests.tiny import SMALL, TinyRuns
from toolkit.data.images import read_rgb
from toolkit.methods.registry import _BUILT_IN
from toolkit.runs.prediction_io import read_predictions

pytestmark = pytest.mark.slow


def test_no_method_is_missing() -> None:
    assert set(SMALL) == set(_BUILT_IN)


@pytest.mark.parametrize("method", sorted(SMALL))
def test_one_way_to_predict(
    method: str,
    tiny_runs: TinyRuns,
    sample_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tiny_runs(method)
    before = {f: f.read_bytes() for f in sorted(run.path.rglob("*")) if f.is_file()}
    # SAM's encoder takes a second for each image, and each is predicted four times.
    stored = list(read_predictions(run.predictions, "test"))[: 2 if method == "sam" else 3]
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

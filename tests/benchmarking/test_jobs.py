"""`--jobs`: the same runs, whether their trainings stand side by side or in line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from toolkit.cli.main import app
from toolkit.files import read_json

SMALL = {"weights": "none", "image_size": 64, "n_features": 10}


@pytest.mark.slow
def test_side_by_side_as_in_line(sample_dir: Path, tmp_path: Path) -> None:
    methods = [{"config": "padim/default", "name": "a", "overrides": SMALL}]
    grid = tmp_path / "grid.yaml"
    grid.write_text(json.dumps({"name": "grid", "n_folds": 3, "folds": [0, 1], "methods": methods}))
    figures = {}
    for jobs in ("1", "2"):
        runs = tmp_path / jobs
        words = ["benchmark", str(grid), "--data", str(sample_dir), "--runs", str(runs)]
        result = CliRunner().invoke(app, [*words, "--jobs", jobs])
        assert result.exit_code == 0, result.output
        assert "folds 0, 1 pooled" in result.stdout
        figures[jobs] = {
            path.parent.name: read_json(path)["image"]["auroc"]
            for path in sorted((runs / "grid/padim").glob("*/metrics.json"))
        }
    assert list(figures["1"]) == [f"a-fold{fold}-seed0" for fold in (0, 1)]
    assert np.allclose(list(figures["1"].values()), list(figures["2"].values()), atol=1e-6)

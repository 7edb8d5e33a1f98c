"""One model for several data sets, beside the separate ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import run as command
from tests.leaderboards.standin import Grey, grey, write_grid  # noqa: F401
from toolkit.benchmarking.grid import read_benchmark
from toolkit.benchmarking.study import benchmark
from toolkit.benchmarking.unified import union_split
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_split
from toolkit.errors import ConfigError
from toolkit.leaderboards.board import leaderboard

pytestmark = pytest.mark.usefixtures("grey")
METHODS: list[dict[str, Any]] = [{"name": "a"}]


@pytest.fixture
def several(sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two data sets of different light, for a method that learns from good images only."""
    import cv2

    monkeypatch.setattr(Grey, "labels", "none")
    for name, light in (("nut", 0), ("bolt", 40)):
        shutil.copytree(sample_dir, tmp_path / "all" / name)
        for path in (tmp_path / "all" / name).rglob("t*/*/*.png"):
            cv2.imwrite(str(path), cv2.add(cv2.imread(str(path)), (light,) * 3))
    return tmp_path / "all"


def test_union(several: Path) -> None:
    splits = [make_split(load_dataset(several / name), folds=3) for name in ("nut", "bolt")]
    union = union_split(splits)
    for part in ("train", "val", "test"):
        whole = [s.id for s in getattr(union, part)]
        assert len(whole) == len(set(whole)) == sum(len(getattr(s, part)) for s in splits)
    assert len(union.dataset.content) == len(union.dataset) == sum(len(s.dataset) for s in splits)
    assert union.train[0].id.startswith("nut/")
    assert union_split(splits[:1]).plan_hash != union.plan_hash


def test_one_model_beside_the_separate_ones(several: Path, tmp_path: Path) -> None:
    config = read_benchmark(str(write_grid(tmp_path, METHODS)))
    said: list[str] = []
    result = benchmark(config, several, runs=tmp_path, unified=True, say=said.append)
    assert result.errors == ()
    assert Grey.fits == ["a-fold0-seed0"] * 2 + ["a-unified-fold0-seed0"]
    runs = {run.path.relative_to(tmp_path / "small").as_posix(): run for run in result}
    unified = [runs[f"{name}/grey/a-unified-fold0-seed0"] for name in ("bolt", "nut")]
    means = [json.loads((run.weights / "state.json").read_text())["mean"] for run in unified]
    separate = [
        json.loads((runs[f"{name}/grey/a-fold0-seed0"].weights / "state.json").read_text())["mean"]
        for name in ("bolt", "nut")
    ]
    assert means[0] == means[1]
    assert min(separate) < means[0] < max(separate)
    assert {run.record["data"]["name"] for run in unified} == {"bolt", "nut"}
    assert unified[0].metadata["unified"]["categories"] == ["bolt", "nut"]
    (price,) = [line for line in said if line.startswith("a-unified: one model for 2 categories")]
    assert "points of mean AUROC" in price
    names = {row.name for row in leaderboard(result.runs).overviews[0].rows}
    assert names == {"a", "a-unified"}


def test_resumed_and_refused(several: Path, tmp_path: Path) -> None:
    config = read_benchmark(str(write_grid(tmp_path, METHODS)))
    benchmark(config, several, runs=tmp_path, unified=True)
    (tmp_path / "small/nut/grey/a-unified-fold0-seed0/metrics.json").unlink()
    before = len(Grey.fits)
    assert benchmark(config, several, runs=tmp_path, unified=True).errors == ()
    assert len(Grey.fits) == before  # the weights were taken over again
    shutil.copytree(several / "nut", several / "screw")
    result = benchmark(config, several, runs=tmp_path, unified=True)
    assert ["was fitted on bolt, nut" in str(error) for error in result.errors] == [True]


def test_needs_several(several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    grid = write_grid(tmp_path, METHODS)
    with pytest.raises(ConfigError, match="--unified: needs several data sets"):
        command("benchmark", grid, "--data", several / "nut", "--unified")

"""Ray workers whose images, data and runs lie in a storage of the S3 protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import run
from tests.ray_cluster import small_cluster
from tests.storage_servers import BUCKET, put_folder, s3_server
from tests.tiny import TinyRuns
from toolkit.files import read_json
from toolkit.inference.fleet import predict_manifest
from toolkit.inference.manifest import write_manifest
from toolkit.inference.model import load_model
from toolkit.runs.store import fetch_runs
from toolkit.storage import addresses_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, which inherit the server's address from the environment."""
    with s3_server(), small_cluster() as started:
        yield started


def test_images_in_a_storage_are_answered_by_ray_workers(
    cluster: Any, tiny_runs: TinyRuns, sample_dir: Path, tmp_path: Path
) -> None:
    place = f"s3://{BUCKET}/images"
    put_folder(sample_dir / "test/good", place)
    addresses = [*addresses_of(place), f"{place}/nowhere.png"]
    write_manifest(addresses, tmp_path / "m")
    finished = tiny_runs("padim").path
    done = predict_manifest(finished, tmp_path / "m", address=cluster.address, block_rows=2)
    assert (done.rows, done.unreadable, done.failed) == (len(addresses), 1, [])
    from pyarrow import parquet

    files = sorted(done.out.glob("[!.]*.parquet"))
    rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
    assert [row["address"] for row in rows] == addresses
    here = load_model(finished).predict(sorted((sample_dir / "test/good").iterdir()))
    for row, result in zip(rows, here, strict=False):
        assert row["score"] == pytest.approx(result.score, rel=1e-5)
    assert "nowhere.png: not found" in rows[-1]["error"]


def test_a_benchmark_of_ray_workers_whose_data_and_runs_are_in_a_storage(
    cluster: Any, sample_dir: Path, tmp_path: Path
) -> None:
    base = f"s3://{BUCKET}/bench"
    put_folder(sample_dir, f"{base}/data/sample")
    grid = tmp_path / "grid.yaml"
    tiny = {"weights": "none", "image_size": 64}
    methods = [{"config": "padim/default", "name": "a", "overrides": tiny}]
    grid.write_text(json.dumps({"name": "grid", "n_folds": 3, "folds": [0, 1], "methods": methods}))
    words = ("--executor", "ray", "--address", cluster.address)
    done = run("benchmark", grid, "--data", f"{base}/data/sample", "--runs", f"{base}/runs", *words)
    assert done.exit_code == 0, done.stderr
    assert run("benchmark", grid, "--data", sample_dir, "--runs", tmp_path / "local").exit_code == 0
    published = sorted(fetch_runs(f"{base}/runs/grid").rglob("metrics.json"))
    assert [file.parent.name for file in published] == ["a-fold0-seed0", "a-fold1-seed0"]
    for file in published:
        twin = tmp_path / "local/grid" / file.relative_to(file.parents[2])
        assert read_json(file)["image"] == read_json(twin)["image"]

"""Predicting a manifest on a real Ray cluster: one row per image, whatever is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.ray_cluster import small_cluster
from toolkit.errors import ConfigError
from toolkit.inference import fleet
from toolkit.inference.fleet import predict_manifest
from toolkit.inference.manifest import write_manifest
from toolkit.inference.model import load_model
from toolkit.training import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with small_cluster() as started:
        yield started


@pytest.fixture(scope="module")
def finished(sample_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of PaDiM on tiny images."""
    runs = tmp_path_factory.mktemp("runs")
    return train("padim", sample_dir, runs=runs, name="a", weights="none", image_size=64).path


def _rows(out: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    files = sorted(out.glob("[!.]*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def _images(sample_dir: Path) -> list[str]:
    return [str(path) for path in sorted((sample_dir / "test").rglob("*.png"))]


def test_rows_bad_images_and_a_second_call(
    cluster: Any, finished: Path, sample_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    good = _images(sample_dir)
    addresses = [*good, str(tmp_path / "broken.png"), f"file://{good[0]}", "file:///no/where.png"]
    write_manifest(addresses, tmp_path / "m", shard_rows=20)
    done = predict_manifest(finished, tmp_path / "m", address=cluster.address, block_rows=5)
    assert (done.rows, done.unreadable, done.failed) == (27, 2, [])
    assert done.out.parent == tmp_path / "m"
    rows = _rows(done.out)
    assert [row["address"] for row in rows] == addresses
    assert [row["row"] for row in rows] == list(range(27))
    model = load_model(finished)
    for row, result in zip(rows, model.predict(good), strict=False):
        assert row["score"] == pytest.approx(result.score, rel=1e-5)
        assert row["decision"] == (result.outcome and result.outcome.value)
        assert len(row["sha256"]) == len(row["model"]) == 64
    assert rows[25]["score"] == rows[0]["score"]
    assert "broken.png" in rows[24]["error"]
    assert "not found" in rows[26]["error"]
    assert rows[24]["score"] is None
    again = predict_manifest(finished, tmp_path / "m", address=cluster.address, block_rows=9)
    assert (again.rows, again.kept) == (0, 27)
    other = write_manifest(addresses[:3], tmp_path / "other").path
    with pytest.raises(ConfigError, match="results of another manifest"):
        predict_manifest(finished, other, out=done.out, address=cluster.address)


def test_a_shard_that_is_missing_is_named_and_the_rest_is_answered(
    cluster: Any, finished: Path, sample_dir: Path, tmp_path: Path
) -> None:
    manifest = write_manifest(_images(sample_dir), tmp_path / "m", shard_rows=8)
    manifest.shards[1].path.unlink()
    done = predict_manifest(finished, tmp_path / "m", address=cluster.address, block_rows=4)
    assert done.rows == 16
    assert len(done.failed) == 2
    assert "part-00001.parquet: a file of the manifest cannot be read" in done.failed[0]


def _workers() -> list[int]:
    """Return the workers of this test's own cluster."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "".join(process.cmdline()).startswith("ray::Worker"):
                found.append(process.pid)
    return found


_DRIVER = """
import sys
from pathlib import Path
from toolkit.inference.fleet import predict_manifest
predict_manifest(Path(sys.argv[1]), Path(sys.argv[2]), address=sys.argv[3], block_rows=3)
"""


def test_one_row_per_image_after_the_loss_of_workers_and_of_the_driver(
    cluster: Any, finished: Path, sample_dir: Path, tmp_path: Path
) -> None:
    addresses = _images(sample_dir) * 10
    write_manifest(addresses, tmp_path / "m", shard_rows=100)
    out = tmp_path / "m" / f"results-{fleet.hash_of(finished)[:12]}"
    words = [str(finished), str(tmp_path / "m"), cluster.address]
    driver = subprocess.Popen([sys.executable, "-c", _DRIVER, *words])
    try:
        _wait_for(lambda: len(list(out.glob("[!.]*.parquet"))) >= 5)
    finally:
        driver.kill()
        driver.wait()
    kept = {file: file.stat().st_mtime_ns for file in out.glob("[!.]*.parquet")}
    assert 5 <= len(kept) < 80
    lines: list[str] = []
    killer = threading.Thread(target=_kill_three_workers, args=(out, len(kept)))
    killer.start()
    done = predict_manifest(
        finished, tmp_path / "m", address=cluster.address, block_rows=3, say=lines.append
    )
    killer.join()
    rows = _rows(out)
    assert [row["address"] for row in rows] == addresses, "exactly one row per image"
    assert not done.failed
    assert sum("a worker was lost" in line for line in lines) == 3
    for file, written in kept.items():
        assert file.stat().st_mtime_ns == written, "what was answered is not answered again"


def _kill_three_workers(out: Path, before: int) -> None:
    killed = set(_workers())  # those of the first driver, which end with it
    for number in (1, 2, 3):
        _wait_for(lambda n=number: len(list(out.glob("[!.]*.parquet"))) > before + 5 * n)
        _wait_for(lambda: set(_workers()) - killed)
        victim = next(iter(set(_workers()) - killed))
        killed.add(victim)
        os.kill(victim, signal.SIGKILL)


def _wait_for(condition: Any) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)

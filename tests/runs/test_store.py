"""Runs and data at s3://, against a real server on the loopback, and at file://."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import run
from tests.storage_servers import BUCKET, gs_server, put_folder, s3_server
from tests.tiny import TinyRuns
from toolkit.data.mirror import local_data
from toolkit.errors import DataError
from toolkit.files import read_json
from toolkit.inference.manifest import read_block, read_manifest
from toolkit.runs.run import Run
from toolkit.runs.store import fetch_run, fetch_runs, publish_run
from toolkit.storage import StorageError, read_address


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with s3_server() as started:
        yield started


@pytest.fixture(scope="module")
def gs() -> Iterator[Any]:
    with gs_server() as started:
        yield started


@pytest.fixture(params=["s3", "file", "gs"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address to write below."""
    if request.param == "file":
        return f"file://{tmp_path}/share"
    request.getfixturevalue(request.param)
    return f"{request.param}://{BUCKET}/{tmp_path.name}"


def _clear_s3() -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def _grid(folder: Path) -> Path:
    grid = folder / "grid.yaml"
    tiny = {"weights": "none", "image_size": 64}
    methods = [{"config": "padim/default", "name": "a", "overrides": tiny}]
    grid.write_text(json.dumps({"name": "grid", "n_folds": 3, "folds": [0, 1], "methods": methods}))
    return grid


@pytest.mark.slow
def test_a_benchmark_whose_data_and_runs_have_addresses(
    base: str, sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_folder(sample_dir, f"{base}/data/sample")
    grid, words = _grid(tmp_path), ("--data", f"{base}/data/sample", "--runs", f"{base}/runs")
    assert run("task", grid, 0, *words).exit_code == 0
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path / "another-node"))
    listed = run("benchmark", grid, *words, "--list-tasks").stdout.splitlines()
    assert [line.split("\t")[3] for line in listed[1:]] == ["finished", "open"]
    done = run("benchmark", grid, *words)
    assert done.exit_code == 0, done.stderr
    assert "folds 0, 1 pooled" in done.stdout
    here = run("benchmark", grid, "--data", sample_dir, "--runs", tmp_path / "local")
    assert here.exit_code == 0
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path / "a-third-node"))
    board = run("leaderboard", f"{base}/runs/grid")
    assert board.exit_code == 0, board.stderr
    for file in fetch_runs(f"{base}/runs/grid").rglob("metrics.json"):
        twin = tmp_path / "local/grid" / file.relative_to(file.parents[2])
        assert read_json(file)["image"] == read_json(twin)["image"]


def test_a_half_published_run_is_not_there(base: str, tmp_path: Path) -> None:
    import fsspec

    folder = tmp_path / "padim/a"
    (folder / "weights").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "weights/w.bin").write_bytes(b"123")
    address = f"{base}/runs/padim/a"
    fs, root = fsspec.core.url_to_fs(address)
    fs.makedirs(f"{root}/attempt-1", exist_ok=True)
    fs.pipe_file(f"{root}/attempt-1/run.json", b"{")
    assert not fetch_run(address, tmp_path / "fetched")
    assert publish_run(folder, address)
    assert not publish_run(folder, address), "the first one stays"
    marker = json.loads(fs.cat_file(f"{root}/published.json"))
    fs.pipe_file(f"{root}/{marker['attempt']}/weights/w.bin", b"12")
    with pytest.raises(StorageError, match=r"weights/w.bin: differs from what was published"):
        fetch_run(address, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_two_workers_at_once_publish_one(base: str, tmp_path: Path) -> None:
    if base.startswith("gs:"):
        pytest.skip("the server of Google's protocol lets a file be made twice")
    from concurrent.futures import ThreadPoolExecutor

    import fsspec

    (tmp_path / "a").mkdir()
    (tmp_path / "a/run.json").write_text("{}")
    address = f"{base}/runs/padim/b"
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda _: publish_run(tmp_path / "a", address), range(4)))
    assert sum(won) == 1
    fs, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
    assert len([p for p in fs.find(root) if p.endswith("run.json")]) == 1


def test_a_storage_that_is_gone_when_a_run_is_finished_loses_nothing(
    tiny_runs: TinyRuns, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_path = shutil.copytree(tiny_runs("padim").path, tmp_path / "padim/a")
    address = f"s3://{BUCKET}/{tmp_path.name}/padim/a"
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setattr("s3fs.S3FileSystem.retries", 1)
        _clear_s3()
        with pytest.raises(StorageError, match=r"padim/a: cannot be used \("):
            publish_run(run_path, address)
    _clear_s3()
    assert Run.open(run_path).finished
    assert publish_run(run_path, address), "the next call publishes it"


@pytest.mark.parametrize("offset_days", [-400, 400])
def test_clocks_that_differ(
    base: str,
    tiny_runs: TinyRuns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offset_days: int,
) -> None:
    """What was published first counts, whatever the clock of the second machine says."""
    run_path = shutil.copytree(tiny_runs("padim").path, tmp_path / "padim/a")
    address, offset = f"{base}/runs/padim/a", 86_400 * offset_days
    assert publish_run(run_path, address)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    for file in run_path.rglob("*"):
        os.utime(file, (real() + offset,) * 2)
    assert not publish_run(run_path, address)
    assert fetch_run(address, tmp_path / "fetched/padim/a")
    assert Run.open(tmp_path / "fetched/padim/a").finished


def test_data_is_copied_once_per_content(base: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.txt").write_text("1")
    put_folder(tmp_path / "d", f"{base}/d")
    first = local_data(f"{base}/d")
    assert (first.name, (first / "a.txt").read_text()) == ("d", "1")
    stamp = first.stat().st_mtime_ns
    assert local_data(f"{base}/d") == first
    assert first.stat().st_mtime_ns == stamp
    (tmp_path / "d/a.txt").write_text("22")
    put_folder(tmp_path / "d", f"{base}/d")
    assert (local_data(f"{base}/d") / "a.txt").read_text() == "22"
    with pytest.raises(DataError, match="no files there"):
        local_data(f"{base}/nothing")


def test_a_manifest_of_images_in_a_storage(base: str, sample_dir: Path, tmp_path: Path) -> None:
    put_folder(sample_dir / "test/good", f"{base}/images/good")
    assert run("manifest", f"{base}/images", "--out", tmp_path / "m").exit_code == 0
    manifest = read_manifest(tmp_path / "m")
    addresses = read_block(next(manifest.blocks(100)))
    files = sorted((sample_dir / "test/good").iterdir())
    assert [one.rpartition("/")[2] for one in addresses] == [file.name for file in files]
    assert [read_address(one) for one in addresses] == [file.read_bytes() for file in files]


def test_a_storage_that_vanishes_in_the_middle_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_MAX_ATTEMPTS", "1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    storage = s3fs.S3FileSystem()
    storage.mkdir("gone")
    for i in range(20):
        storage.pipe_file(f"gone/d/{i}.txt", b"x")
    get = s3fs.S3FileSystem.get_file

    def get_then_stop(self: Any, source: str, target: str, **options: Any) -> Any:
        if source.endswith("/5.txt"):
            server.stop()
        return get(self, source, target, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "get_file", get_then_stop)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr("toolkit.data.mirror._AT_ONCE", 1)
    with pytest.raises(StorageError, match=r"s3://gone/d: (cannot be used|not found) \("):
        local_data("s3://gone/d")
    s3fs.S3FileSystem.clear_instance_cache()
    home = Path(os.environ["TOOLKIT_HOME"])
    assert not list(home.rglob("*.txt")), "no part of a copy is kept"


def test_one_line_for_a_storage_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    import s3fs

    for name, value in (
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_MAX_ATTEMPTS", "1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match=r"s3://gone/runs: cannot be used \("):
        fetch_runs("s3://gone/runs")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="unknown kind of storage"):
        local_data("nfs4://server/x")

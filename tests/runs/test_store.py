"""Runs and data at s3://, against a real server on the loopback, and at file://."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import run
from toolkit.data.mirror import local_data
from toolkit.errors import DataError
from toolkit.files import read_json
from toolkit.inference.manifest import read_block, read_manifest
from toolkit.runs.store import fetch_run, fetch_runs, publish_run
from toolkit.storage import StorageError, read_address


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A server of the S3 protocol, with the bucket `plant`; the environment names it."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: inspection-toolkit[storage]")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    started = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("plant")
        yield started
    started.stop()


@pytest.fixture(params=["s3", "file"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address to write below."""
    if request.param == "file":
        return f"file://{tmp_path}/share"
    request.getfixturevalue("server")
    return f"s3://plant/{tmp_path.name}"


def _grid(folder: Path) -> Path:
    grid = folder / "grid.yaml"
    tiny = {"weights": "none", "image_size": 64}
    methods = [{"config": "padim/default", "name": "a", "overrides": tiny}]
    grid.write_text(json.dumps({"name": "grid", "n_folds": 3, "folds": [0, 1], "methods": methods}))
    return grid


def _put(folder: Path, address: str) -> None:
    import fsspec

    fs, root = fsspec.core.url_to_fs(address)
    fs.makedirs(root, exist_ok=True)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = f"{root}/{file.relative_to(folder).as_posix()}"
        fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(file), target)


def test_a_benchmark_whose_data_and_runs_have_addresses(
    base: str, sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(sample_dir, f"{base}/data/sample")
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


def test_data_is_copied_once_per_content(base: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.txt").write_text("1")
    _put(tmp_path / "d", f"{base}/d")
    first = local_data(f"{base}/d")
    assert (first.name, (first / "a.txt").read_text()) == ("d", "1")
    stamp = first.stat().st_mtime_ns
    assert local_data(f"{base}/d") == first
    assert first.stat().st_mtime_ns == stamp
    (tmp_path / "d/a.txt").write_text("22")
    _put(tmp_path / "d", f"{base}/d")
    assert (local_data(f"{base}/d") / "a.txt").read_text() == "22"
    with pytest.raises(DataError, match="no files there"):
        local_data(f"{base}/nothing")


def test_a_manifest_of_images_in_a_storage(base: str, sample_dir: Path, tmp_path: Path) -> None:
    _put(sample_dir / "test/good", f"{base}/images/good")
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

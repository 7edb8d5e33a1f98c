"""A real Ray cluster of two small nodes: results, lost nodes, wrong input, other versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import run
from tests.ports import free_port
from tests.ray_cluster import HOST, add_node, small_cluster
from toolkit.benchmarking.ray_executor import RayExecutor
from toolkit.errors import ConfigError, MissingExtraError, RunError
from toolkit.files import read_json

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client_port() -> int:
    """Another one in each worker of pytest, which may have clusters at the same time."""
    return free_port(HOST)


@pytest.fixture(scope="module")
def cluster(client_port: int) -> Iterator[Any]:
    with small_cluster(client_port=client_port) as started:
        yield started


@dataclass(frozen=True)
class Marks:
    """Leaves a file per start of a task, and another one at its end."""

    folder: Path
    seconds: float = 0.0

    def __call__(self, name: str) -> set[str]:
        if name == "bad":
            (self.folder / "bad.started").open("a").write("x")
            raise MissingExtraError("nowhere", extra="none", purpose="be there")
        if name == "fault":
            raise ZeroDivisionError("a bug")
        there = {path.name for path in self.folder.glob("*.ended")}
        with (self.folder / f"{name}.started").open("a") as file:
            file.write(f"{os.getpid()}\n")
        print(f"{name} works")
        time.sleep(self.seconds)
        (self.folder / f"{name}.ended").touch()
        return there


def test_needs_results_wrong_input_and_logs(cluster: Any, tmp_path: Path) -> None:
    needed: dict[str, list[str]] = {"a": [], "on-a": ["a"], "bad": [], "on-bad": ["bad"]}
    tasks = list(needed)
    by_name = dict(zip(tasks, tasks, strict=True))
    begun: list[str] = []
    lines: list[str] = []
    executor = RayExecutor(cluster.address, logs=tmp_path / "logs", say=lines.append)
    outcomes = {
        o.task: o
        for o in executor.run(
            tasks,
            Marks(tmp_path),
            needs=lambda name: [by_name[n] for n in needed[name]],
            begun=begun.append,
        )
    }
    assert outcomes.keys() == needed.keys()
    assert sorted(begun) == sorted(needed)
    assert "a.ended" in (outcomes["on-a"].result or set())
    assert outcomes["on-bad"].error is None, "what is needed may have failed"
    assert type(outcomes["bad"].error) is MissingExtraError
    assert str(outcomes["bad"].error).startswith("nowhere is needed to be there")
    assert (tmp_path / "bad.started").read_text() == "x", "wrong input is not tried again"
    assert "a works" in (tmp_path / "logs/a.txt").read_text()
    assert "Ray cluster: 2 nodes, 2 CPUs, 0 GPUs" in lines


def test_through_the_client_of_ray(cluster: Any, client_port: int, tmp_path: Path) -> None:
    executor = RayExecutor(f"ray://{HOST}:{client_port}", logs=tmp_path / "logs")
    outcomes = {o.task: o for o in executor.run(["a", "bad"], Marks(tmp_path))}
    assert outcomes["a"].error is None
    assert type(outcomes["bad"].error) is MissingExtraError


def test_after_a_client_that_failed_other_connections_work(
    cluster: Any, client_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise ConnectionAbortedError("Initialization failure from server:")

    with monkeypatch.context() as patch:
        patch.setattr("ray.util.client.worker.Worker._server_init", refused)
        with pytest.raises(RunError, match=r"no Ray cluster answers \(Initialization"):
            list(RayExecutor(f"ray://{HOST}:{client_port}").run(["a"], Marks(tmp_path)))
    (outcome,) = RayExecutor(cluster.address).run(["a"], Marks(tmp_path))
    assert outcome.error is None


def test_a_fault_of_the_program_is_not_swallowed(cluster: Any, tmp_path: Path) -> None:
    executor = RayExecutor(cluster.address, logs=tmp_path / "logs")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(executor.run(["fault"], Marks(tmp_path)))
    assert "ZeroDivisionError" in (tmp_path / "logs/fault.txt").read_text()


def test_interrupted_it_leaves_what_is_finished(cluster: Any, tmp_path: Path) -> None:
    tasks = [f"t{i}" for i in range(6)]
    outcomes = RayExecutor(cluster.address).run(tasks, Marks(tmp_path, seconds=0.5))
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]  # as an interrupt does
    ended = {path.stem for path in tmp_path.glob("*.ended")}
    assert 1 <= len(ended) < 6
    time.sleep(1.0)
    assert {path.stem for path in tmp_path.glob("*.ended")} == ended, "nothing runs on"


def _grid(folder: Path) -> Path:
    grid = folder / "grid.yaml"
    tiny = {"weights": "none", "image_size": 64}
    methods = [
        {"config": "padim/default", "name": "a", "overrides": {**tiny, "n_features": 10}},
        {"config": "devnet/default", "name": "bad", "overrides": {**tiny, "weights": "no.pth"}},
    ]
    methods[0]["resources"] = {"cpus": 1, "memory": "200M"}
    grid.write_text(json.dumps({"name": "grid", "n_folds": 3, "folds": [0, 1], "methods": methods}))
    return grid


def _metrics(runs: Path) -> dict[str, Any]:
    files = sorted(runs.glob("grid/*/*/metrics.json"))
    return {f.parent.name: {k: read_json(f)[k] for k in ("image", "images")} for f in files}


def test_the_same_metrics_as_on_this_machine(
    cluster: Any, sample_dir: Path, tmp_path: Path
) -> None:
    grid = _grid(tmp_path)
    words = ["benchmark", grid, "--data", sample_dir, "--runs"]
    assert run(*words, tmp_path / "local").exit_code == 1, "one entry cannot be trained"
    done = run(*words, tmp_path / "ray", "--executor", "ray", "--address", cluster.address)
    assert done.exit_code == 1
    assert re.search("failed: bad-fold0-seed0: .*no.pth", done.stderr)
    assert "[1/4] a-fold0-seed0" in done.stderr
    assert "folds 0, 1 pooled" in done.stdout
    here = _metrics(tmp_path / "local")
    assert list(here) == [f"a-fold{fold}-seed0" for fold in (0, 1)]
    assert _metrics(tmp_path / "ray") == here
    assert (tmp_path / "ray/grid/logs/a-fold0-seed0.txt").is_file()


def test_another_version_of_the_package_is_refused_by_name(cluster: Any, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "toolkit", tmp_path / "toolkit")
    init = tmp_path / "toolkit/__init__.py"
    text = init.read_text(encoding="utf-8")
    assert '__version__ = "0.1.0"' in text
    init.write_text(text.replace('__version__ = "0.1.0"', '__version__ = "0.0.9"'))
    # Imported first, since a worker puts the folders of the command before its own.
    (tmp_path / "sitecustomize.py").write_text("import toolkit\n")
    old = add_node(cluster, env_vars={"PYTHONPATH": str(tmp_path)})
    try:
        with pytest.raises(RunError, match=r"than 0.1.0 here: 127.0.0.2 \(\w{8}\) has 0.0.9; inst"):
            list(RayExecutor(cluster.address).run(["a"], Marks(tmp_path)))
    finally:
        cluster.remove_node(old)
    assert not list(tmp_path.glob("*.started"))


def test_a_node_lost_without_grace(tmp_path: Path) -> None:
    """All results come, and nothing that had ended is run again."""
    with small_cluster() as cluster:
        tasks = [f"t{i}" for i in range(6)]
        lines: list[str] = []
        executor = RayExecutor(cluster.address, say=lines.append)
        outcomes, ended_before = [], set()
        for outcome in executor.run(tasks, Marks(tmp_path, seconds=0.7)):
            outcomes.append(outcome)
            if len(outcomes) == 2:
                ended_before = {path.stem for path in tmp_path.glob("*.ended")}
                cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
                add_node(cluster)
        assert sorted(o.task for o in outcomes) == tasks
        assert all(o.error is None for o in outcomes)
        for name in ended_before:
            starts = (tmp_path / f"{name}.started").read_text().split()
            assert len(starts) == 1, "what has ended is not run again"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://127.0.0.1:1", "nobody answers .*ray start --head"),
        ("127.0.0.1:1", "nobody answers"),
        ("http://127.0.0.1:1", "give auto, ray://HOST:PORT"),
    ],
)
def test_an_address_that_nobody_answers(tmp_path: Path, address: str, said: str) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    with pytest.raises(RunError, match=said):
        list(RayExecutor(address).run(["a"], Marks(tmp_path)))


def test_wrong_resources(tmp_path: Path, sample_dir: Path) -> None:
    grid = _grid(tmp_path)
    content = json.loads(grid.read_text())
    content["methods"][0]["resources"] = {"cpu": 1}
    grid.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="resources: unknown resource 'cpu'; did you mean 'cpus'"):
        run("benchmark", grid, "--data", sample_dir, "--list-tasks")

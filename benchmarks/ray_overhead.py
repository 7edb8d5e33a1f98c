"""What a Ray cluster costs beside `--jobs 2`, and what the loss of nodes costs.

    python benchmarks/ray_overhead.py DATA [--kills 2]

24 trainings of PaDiM (2 settings, 3 folds, 4 seeds) by two processes, then by a cluster with a
head and two nodes of one CPU, then by such a cluster of which a node is killed without grace
during the work, and replaced, and by one with one node. Prints one JSON line per way, and
compares all metrics. Each way has an empty cache of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scale_probe import NODE, empty_home

from toolkit.benchmarking.ray_executor import RayExecutor

SIZE = 128


def main() -> None:
    """Run all ways, print seconds, and whether the metrics are the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--kills", type=int, default=2)
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        grid = _grid(place)
        seconds = {}
        for way in ("jobs 2", "ray", "ray, nodes killed", "ray, 1 node"):
            runs = place / way.replace(" ", "-")
            executor, stop = None, lambda: None
            if way != "jobs 2":
                cluster = _cluster(1 if way.endswith("1 node") else 2)
                executor = _Killing(cluster, options.kills if "killed" in way else 0)
                stop = cluster.shutdown
            with empty_home(place / f"home-{way}"):
                seconds[way] = _train(grid, options.data, runs, executor)
            figures = {"seconds": round(seconds[way], 1)}
            if executor is not None:  # what the simulation is fed with
                first, last = executor.times[0], executor.times[-1]
                figures["between_outcomes_s"] = round((last - first) / (len(executor.times) - 1), 2)
                figures["all_but_first_s"] = round(last - first, 1)
            stop()
            print(json.dumps({"way": way, **figures, **_same(place, runs)}), flush=True)
        over = seconds["ray"] - seconds["jobs 2"]
        print(
            json.dumps(
                {"overhead_s": round(over, 1), "limit_s": round(seconds["jobs 2"] / 10 + 10, 1)}
            )
        )


def _train(grid: Path, data: Path, runs: Path, executor: Any) -> float:
    """Train all tasks; the speed measurement behind it is the same for all, and is left out."""
    from toolkit.benchmarking import study

    started, ended = time.perf_counter(), []
    measure = study._measure
    study._measure = lambda *_, **__: ended.append(time.perf_counter()) or []
    try:
        study.benchmark(grid, data, runs=runs, jobs=2, executor=executor)
    finally:
        study._measure = measure
    return ended[0] - started


def _grid(place: Path) -> Path:
    grid = place / "grid.yaml"
    own = {"weights": "none", "image_size": SIZE}
    methods = [
        {"config": "padim/default", "name": f"sigma{s}", "overrides": {**own, "sigma": s}}
        for s in (2.0, 4.0)
    ]
    content = {"name": "grid", "n_folds": 3, "seeds": [0, 1, 2, 3], "methods": methods}
    grid.write_text(json.dumps(content))
    return grid


def _cluster(nodes: int) -> Any:
    from ray.cluster_utils import Cluster

    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, **NODE)
    return cluster


class _Killing(RayExecutor):
    """Kills a node without grace after each sixth outcome, and adds another one."""

    def __init__(self, cluster: Any, kills: int) -> None:
        super().__init__(
            cluster.address, title=lambda job: job.name, resources=lambda job: job.resources
        )
        self._cluster, self._kills = cluster, kills
        self.times: list[float] = []

    def run(self, *words: Any, **named: Any) -> Iterator[Any]:
        """Yield the outcomes."""
        for number, outcome in enumerate(super().run(*words, **named), 1):
            self.times.append(time.perf_counter())
            yield outcome
            if self._kills and number % 6 == 0:
                self._kills -= 1
                lost = next(iter(self._cluster.worker_nodes))
                self._cluster.remove_node(lost, allow_graceful=False)
                self._cluster.add_node(num_cpus=1, **NODE)


def _same(place: Path, runs: Path) -> dict[str, Any]:
    def metrics(folder: Path) -> dict[str, Any]:
        files = folder.rglob("metrics.json")
        return {f.parent.name: json.loads(f.read_text())["image"] for f in files}

    mine = metrics(runs)
    return {"runs": len(mine), "same_metrics": mine == metrics(place / "jobs-2")}


if __name__ == "__main__":
    main()

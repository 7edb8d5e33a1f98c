"""Measure what `scale_simulation.py --check` needs: terms of the cost, and real runs by 1 and 2.

Every worker is one Ray node of one CPU that is bound to one core, so that no thread of it uses a
core that another worker is simulated on. The terms come from probes of their own, in single
processes without Ray on one core, alone and beside a second one that does the same on the other:
cores of one machine share memory and power, and the second figure is that of a busy machine.
Nothing of the real runs goes into the terms but a run of a single unit.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

NODE = {"object_store_memory": 80 << 20, "node_ip_address": "127.0.0.2"}
_LONGEST_S = 300  # of a probe


@dataclass(frozen=True)
class Terms:
    """Seconds that were measured.

    Attributes:
        unit_s: of one unit on one core: a block of images, or a training.
        parts_s: what it consists of, by name.
        start_s: of a worker: imports, the model.
        slower: how much slower a unit is while the other core does the same.
        spread: standard deviation of the logarithm of `unit_s`.
        single_s: a real run of one unit by one worker, from the call to its return.
    """

    unit_s: float
    parts_s: dict[str, float]
    start_s: float
    slower: float
    spread: float
    single_s: float

    @property
    def before_s(self) -> float:
        """What a run takes beside the start of its workers and its units."""
        return max(self.single_s - self.start_s - self.unit_s, 0.0)


def measure_images(run: Path, images: Path, *, rows: int, block_rows: int) -> tuple[Terms, Any]:
    """Return the terms of a block, and real seconds of all rows by one and by two workers."""
    from toolkit.inference.fleet import predict_manifest
    from toolkit.inference.manifest import write_manifest
    from toolkit.storage import addresses_of

    with tempfile.TemporaryDirectory() as folder:
        place, found = Path(folder), list(addresses_of(str(images)))
        calls = count()
        write_manifest(islice(cycle(found), rows), place / "all")
        write_manifest(islice(cycle(found), block_rows), place / "one")
        words = (run, place / "all", block_rows)

        def real(name: str, number: int) -> float:
            with bound_cluster(number) as address:
                began = time.perf_counter()
                out = place / f"results-{next(calls)}"
                predict_manifest(run, place / name, out=out, address=address, workers=number,
                                 block_rows=block_rows)  # fmt: skip
                return time.perf_counter() - began

        real("one", 1)  # makes the files of the engine and fills the caches of the machine
        terms = _terms(_image_probe, words, lambda: real("one", 1))
        return terms, {number: real("all", number) for number in (1, 2)}


def measure_trainings(data: Path, *, tasks: int) -> tuple[Terms, Any]:
    """Return the terms of a training, and real seconds of all tasks by one and by two workers."""
    from toolkit.benchmarking.ray_executor import RayExecutor

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def real(amount: int, number: int) -> float:
            home = place / f"home-{amount}-{number}"
            with bound_cluster(number) as address, empty_home(home):
                began = time.perf_counter()
                todo, work = _tasks(data, home / "runs", range(amount))
                executor = RayExecutor(address, title=lambda task: task.name)
                for outcome in executor.run(todo, work):
                    if outcome.error is not None:
                        raise outcome.error
                return time.perf_counter() - began

        real(1, 1)  # fills the caches of the machine
        (place / "home-1-1").rename(place / "warm")
        terms = _terms(_training_probe, (data, place), lambda: real(1, 1))
        return terms, {number: real(tasks, number) for number in (1, 2)}


def _terms(
    probe: Callable[..., None], words: tuple[Any, ...], single: Callable[[], float]
) -> Terms:
    (alone,) = _probe(probe, words, 1)
    pair = _probe(probe, words, 2)
    units = alone["units"]
    mean = statistics.fmean(units)
    slower = statistics.fmean(u for one in pair for u in one["units"]) / mean
    logs = [math.log(u) for u in units]
    return Terms(mean, alone["parts"], alone["start"], slower, statistics.stdev(logs), single())


def _probe(probe: Callable[..., Any], words: tuple[Any, ...], number: int) -> list[dict[str, Any]]:
    """Run a probe in one process per core, at the same time."""
    context = multiprocessing.get_context("spawn")
    answers, ready = context.Queue(), context.Barrier(number)
    processes = [
        context.Process(target=_bound, args=(probe, core, number, words, answers, ready))
        for core in range(number)
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=_LONGEST_S) for _ in processes]
    for process in processes:
        process.join()
    return found


def _bound(probe: Any, core: int, number: int, words: Any, answers: Any, ready: Any) -> None:
    os.sched_setaffinity(0, {core})
    answers.put(probe(f"{number}-{core}", *words, ready))


def _image_probe(name: str, run: Path, source: Path, block_rows: int, ready: Any) -> dict[str, Any]:
    """Answer some blocks without reading ahead, and time each part."""
    began = time.perf_counter()
    from toolkit.inference import answers
    from toolkit.inference.manifest import read_manifest
    from toolkit.inference.model import load_model

    model = load_model(run)
    start = time.perf_counter() - began
    spent = dict.fromkeys(("read", "decode", "network"), 0.0)

    def timed(key: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            at = time.perf_counter()
            try:
                return function(*args)
            finally:
                spent[key] += time.perf_counter() - at

        return call

    answers.read_address = timed("read", answers.read_address)
    answers.decode_rgb = timed("decode", answers.decode_rgb)
    model.results = timed("network", lambda batch: list(type(model).results(model, batch)))
    answers.in_order = lambda work, items, workers: map(work, items)
    out = source.parent / f"probe-{name}"
    out.mkdir()
    blocks = list(islice(read_manifest(source).blocks(block_rows), 8))
    answers.answer_block(model, blocks[0], out, model_hash="")
    spent.update(dict.fromkeys(spent, 0.0))
    units = []
    ready.wait()
    for block in blocks:
        at = time.perf_counter()
        answers.answer_block(model, block, out, model_hash="")
        units.append(time.perf_counter() - at)
    parts = {key: seconds / len(blocks) for key, seconds in spent.items()}
    return {"units": units, "start": start,
            "parts": {**parts, "write": statistics.fmean(units) - sum(parts.values())}}  # fmt: skip


def _training_probe(name: str, data: Path, place: Path, ready: Any) -> dict[str, Any]:
    """Train some tasks after the other, and time each; the first one also imports."""
    with empty_home(place / f"probe-{name}"):
        began = time.perf_counter()
        tasks, work = _tasks(data, place / f"probe-{name}/runs", range(100, 108))
        split = time.perf_counter() - began
        work(tasks[0])
        first = time.perf_counter() - began - split
        units, parts = [], {"fit": 0.0, "predict and evaluate": 0.0}
        work(tasks[1])
        ready.wait()
        for task in tasks[2:]:
            at = time.perf_counter()
            run = work(task)
            units.append(time.perf_counter() - at)
            parts["fit"] += run.metadata["fit_seconds"] / (len(tasks) - 2)
        parts["predict and evaluate"] = statistics.fmean(units) - parts["fit"]
        return {"units": units, "start": max(first - statistics.fmean(units), 0.0),
                "parts": {**parts, "read and split the data (once)": split}}  # fmt: skip


def _tasks(data: Path, runs: Path, seeds: range) -> tuple[list[Any], Any]:
    """Read and split the data; return trainings of PaDiM of one fold, and what runs them."""
    from toolkit.benchmarking.grid import read_benchmark
    from toolkit.benchmarking.plan import plan_benchmark

    runs.mkdir(parents=True)
    own = {"weights": "none"}  # random weights cost the same time
    entry = {"config": "padim/default", "name": "padim", "overrides": own}
    content = {"name": "grid", "folds": [0], "seeds": list(seeds), "methods": [entry]}
    (runs / "grid.yaml").write_text(json.dumps(content))
    config = read_benchmark(str(runs / "grid.yaml"))
    (category,) = plan_benchmark(config, data, runs).categories
    tasks = category.tasks(config, device="cpu")
    return tasks, category.work(tasks, patience=10)


@contextmanager
def empty_home(folder: Path) -> Iterator[None]:
    """Use an empty cache, so that no way finds the engine files of another one's runs."""
    before = os.environ.get("TOOLKIT_HOME")
    os.environ["TOOLKIT_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOOLKIT_HOME"]
        else:
            os.environ["TOOLKIT_HOME"] = before


@contextmanager
def bound_cluster(nodes: int) -> Iterator[str]:
    """Start a cluster of nodes of one CPU, each bound to a core, and yield its address."""
    from ray.cluster_utils import Cluster

    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    everywhere = os.sched_getaffinity(0)
    try:
        for core in range(nodes):
            os.sched_setaffinity(0, {core})  # which the node's processes inherit
            cluster.add_node(num_cpus=1, **NODE)
            os.sched_setaffinity(0, everywhere)
        yield cluster.address
    finally:
        cluster.shutdown()

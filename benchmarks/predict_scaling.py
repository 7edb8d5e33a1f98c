"""Predicting a manifest by one worker, by two, and by two after three kills of workers.

    python benchmarks/predict_scaling.py RUN IMAGES [--rows 20000]

IMAGES is a folder; its images are listed again and again until there are enough rows. Beside it
two separate processes each answer half of the rows without Ray: what two free cores give.
Prints one JSON line per way: images per second, the largest memory of a worker after a tenth of
the rows and at the end.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from toolkit.inference.answers import answer_block
from toolkit.inference.fleet import hash_of, predict_manifest
from toolkit.inference.manifest import read_manifest, write_manifest
from toolkit.storage import addresses_of


def main() -> None:
    """Predict in all ways and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--block-rows", type=int, default=200)
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        images = list(addresses_of(str(options.images)))
        write_manifest(islice(cycle(images), options.rows), place / "m")
        rates = {}
        for number in (1, 2):
            rates[f"{number} process"] = _separate(options.run, place, number, options.block_rows)
        for number, kills in ((1, 0), (2, 0), (2, 3)):
            name = f"ray, {number} workers" + (f", {kills} killed" if kills else "")
            rates[name] = _with_ray(options, place, number, kills, name)
        one, two = rates["1 process"], rates["2 process"]
        gain = rates["ray, 2 workers"] / rates["ray, 1 workers"]
        print(json.dumps({"gain_ray": round(gain, 2), "gain_processes": round(two / one, 2)}))


def _with_ray(options: Any, place: Path, number: int, kills: int, name: str) -> float:
    from pyarrow import parquet
    from ray.cluster_utils import Cluster

    node = {"object_store_memory": 80 << 20, "node_ip_address": "127.0.0.2"}
    head = {**node, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1, **node)
    out = place / name.replace(" ", "-")
    watch = _Watch(out, options.rows // options.block_rows, kills)
    threading.Thread(target=watch.run, daemon=True).start()
    done = predict_manifest(
        options.run, place / "m", out=out, address=cluster.address, workers=number,
        block_rows=options.block_rows,
    )  # fmt: skip
    watch.ended = True
    cluster.shutdown()
    files = list(out.glob("[!.]*.parquet"))
    rows = sorted(
        r for f in files for r in parquet.read_table(f, columns=["row"])["row"].to_pylist()
    )
    rate = options.rows * (1 - 1 / len(files)) / (watch.last - watch.first)
    print(
        json.dumps(
            {
                "way": name, "images_per_s": round(rate, 1), "mb_early": watch.early,
                "mb_late": watch.late, "kills": watch.killed, "answered": done.rows,
                "one_row_per_image": rows == list(range(options.rows)),
            }
        )
    )  # fmt: skip
    return rate


class _Watch:
    """Notes when the first and the last block came, and the memory of the workers."""

    def __init__(self, out: Path, blocks: int, kills: int) -> None:
        self.out, self.blocks, self.kills, self.killed = out, blocks, kills, 0
        self.first = self.last = 0.0
        self.early = self.late = 0
        self.ended = False

    def run(self) -> None:
        """Look ten times a second."""
        seen = 0
        while not self.ended:
            count = len(list(self.out.glob("[!.]*.parquet")))
            now = time.perf_counter()
            if count > seen:
                self.first, self.last, seen = self.first or now, now, count
                if count >= self.blocks // 10 and not self.early:
                    self.early = max(map(_memory_mb, _workers()), default=0)
                self.late = max(map(_memory_mb, _workers()), default=self.late)
            if self.killed < self.kills and count >= (self.killed + 1) * self.blocks // 5:
                self.killed += 1
                os.kill(_workers()[0], signal.SIGKILL)
            time.sleep(0.1)


def _workers() -> list[int]:
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "".join(process.cmdline()).startswith("ray::Worker"):
                found.append(process.pid)
    return found


def _memory_mb(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 >> 20
    except OSError:
        return 0


def _separate(run: Path, place: Path, number: int, block_rows: int) -> float:
    """Answer the manifest by separate processes, each its share; images per second."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(number + 1), context.Barrier(number + 1)
    words = (run, place / "m", place / f"processes-{number}", block_rows, number, ready, go)
    processes = [context.Process(target=_share, args=(i, *words)) for i in range(number)]
    for process in processes:
        process.start()
    ready.wait()
    started = time.perf_counter()
    go.wait()
    for process in processes:
        process.join()
    rate = read_manifest(place / "m").rows / (time.perf_counter() - started)
    print(json.dumps({"way": f"{number} processes without ray", "images_per_s": round(rate, 1)}))
    return rate


def _share(
    me: int, run: Path, source: Path, out: Path, rows: int, number: int, ready: Any, go: Any
) -> None:
    import torch

    from toolkit.inference.model import load_model

    torch.set_num_threads(1)
    model, digest = load_model(run), hash_of(run)
    out.mkdir(exist_ok=True, parents=True)
    ready.wait()
    go.wait()
    for i, block in enumerate(read_manifest(source).blocks(rows)):
        if i % number == me:
            answer_block(model, block, out, model_hash=digest)


if __name__ == "__main__":
    main()

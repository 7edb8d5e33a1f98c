"""Predicting a manifest by one worker and by two, and by two of which some and the driver are lost.

    python benchmarks/predict_scaling.py speed RUN IMAGES [--rows 4000]
    python benchmarks/predict_scaling.py losses RUN IMAGES [--rows 20000]

IMAGES is a folder; its images are listed again and again until there are enough rows. Each worker
is a Ray node of one CPU that is bound to one core: else the reading threads of a single one would
use the second core, too.

`speed`: one and two workers, and beside them one and two separate processes without Ray, each
bound to a core: what two free cores give. `losses`: two workers; one is killed after each fifth of
the rows, three times, and after half of them the driver is killed and started again.

Prints one JSON line per way: images per second from the first block to the last, and the largest
memory of a worker after each tenth of the rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from scale_probe import bound_cluster

from toolkit.inference.answers import answer_block
from toolkit.inference.fleet import hash_of, predict_manifest
from toolkit.inference.manifest import read_manifest, write_manifest
from toolkit.storage import addresses_of

_DRIVER = """
import sys
from pathlib import Path
from toolkit.inference.fleet import predict_manifest
run, source, out, address, rows = sys.argv[1:]
predict_manifest(Path(run), Path(source), out=Path(out), address=address, block_rows=int(rows))
"""


def main() -> None:
    """Predict in all ways and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["speed", "losses"])
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rows", type=int, default=4_000)
    parser.add_argument("--block-rows", type=int, default=50)
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        images = list(addresses_of(str(options.images)))
        write_manifest(islice(cycle(images), options.rows), place / "m")
        if options.kind == "losses":
            _lose(options, place)
            return
        rates = {}
        for number in (1, 2):
            rates[f"{number} process"] = _separate(options.run, place, number, options.block_rows)
            rates[f"ray {number}"] = _with_ray(options, place, number)
        gains = {"gain_ray": rates["ray 2"] / rates["ray 1"],
                 "gain_processes": rates["2 process"] / rates["1 process"]}  # fmt: skip
        print(json.dumps({key: round(gain, 2) for key, gain in gains.items()}))


def _with_ray(options: Any, place: Path, number: int) -> float:
    out = place / f"ray-{number}"
    with bound_cluster(number) as address, _Watch(out, options) as watch:
        predict_manifest(
            options.run, place / "m", out=out, address=address, workers=number,
            block_rows=options.block_rows,
        )  # fmt: skip
    rate = watch.rate(options.rows)
    print(json.dumps({"way": f"ray, {number} workers", "images_per_s": round(rate, 1),
                      **watch.memory(), **_rows(out, options.rows)}), flush=True)  # fmt: skip
    return rate


def _lose(options: Any, place: Path) -> None:
    """Kill three workers and the driver, each after some of the rows, and start the driver again.

    The cluster belongs to this process, so that it outlives the driver.
    """
    out = place / "losses"
    words = [options.run, place / "m", out]
    with bound_cluster(2) as address, _Watch(out, options) as watch:
        command = [sys.executable, "-c", _DRIVER, *map(str, words), address,
                   str(options.block_rows)]  # fmt: skip
        driver = subprocess.Popen(command)
        drivers, killed = 1, 0
        while driver.poll() is None:
            if killed < 3 and watch.share > (killed + 1) / 5 and (workers := _workers()):
                os.kill(workers[0], signal.SIGKILL)
                killed += 1
            if drivers == 1 and watch.share > 0.5:
                driver.kill()
                driver.wait()
                drivers += 1
                kept = {file: file.stat().st_mtime_ns for file in _files(out)}
                driver = subprocess.Popen(command)
            time.sleep(0.1)
    again = sum(file.stat().st_mtime_ns != at for file, at in kept.items())
    print(json.dumps({"way": "ray, 2 workers, losses", "workers_killed": killed,
                      "drivers_killed": drivers - 1, "driver_ended_with": driver.returncode,
                      "blocks_before_the_driver_was_killed": len(kept), "answered_again": again,
                      "images_per_s": round(watch.rate(options.rows), 1),
                      **watch.memory(), **_rows(out, options.rows)}))  # fmt: skip


def _files(out: Path) -> list[Path]:
    return list(out.glob("[!.]*.parquet"))


def _rows(out: Path, expected: int) -> dict[str, Any]:
    from pyarrow import parquet

    tables = (parquet.read_table(file, columns=["row"]) for file in _files(out))
    rows = sorted(row for table in tables for row in table["row"].to_pylist())
    return {"rows": len(rows), "one_row_per_image": rows == list(range(expected))}


class _Watch:
    """Notes when the first and the last block came, and the memory of the workers."""

    def __init__(self, out: Path, options: Any) -> None:
        self.out, self.blocks = out, -(-options.rows // options.block_rows)
        self.first = self.last = self.share = 0.0
        self.count = 0
        self.tenths: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def rate(self, rows: int) -> float:
        """Return images per second behind the first block."""
        return rows * (1 - self._first_count / self.count) / (self.last - self.first)

    def memory(self) -> dict[str, list[int]]:
        """Return the largest memory of a worker after each tenth of the rows."""
        return {"mb_after_tenths": self.tenths}

    def _run(self) -> None:
        """Look ten times a second."""
        while not self._ended.wait(0.1):
            count, now = len(_files(self.out)), time.perf_counter()
            if count > self.count:
                if not self.first:
                    self.first, self._first_count = now, count
                self.last, self.count, self.share = now, count, count / self.blocks
                largest = max(map(_memory_mb, _workers()), default=0)
                while largest and len(self.tenths) < int(10 * self.share):
                    self.tenths.append(largest)


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
    os.sched_setaffinity(0, {me})
    from toolkit.inference.model import load_model

    model, digest = load_model(run), hash_of(run)
    out.mkdir(exist_ok=True, parents=True)
    ready.wait()
    go.wait()
    for i, block in enumerate(read_manifest(source).blocks(rows)):
        if i % number == me:
            answer_block(model, block, out, model_hash=digest)


if __name__ == "__main__":
    main()

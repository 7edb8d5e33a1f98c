"""Is each image answered exactly once by `toolkit watch`, whenever it is killed?

    python benchmarks/watch_kills.py --images 10000 --kills 20

Trains a small PatchCore on the synthetic sample, puts images into a folder while a watcher runs,
ends it with SIGKILL again and again, and counts what is in the ledger, in the folders, in JSON
Lines, and what a webhook has received.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import toolkit
from toolkit.data.synthetic import make_sample
from toolkit.line.ledger import Ledger

SMALL = {"backbone": "resnet18", "weights": "none", "image_size": 64, "coreset_size": 50}
CLI = [sys.executable, "-c", "from toolkit.cli.main import main; main()"]


class Receiver:
    """A webhook that refuses one event in ten at first."""

    def __init__(self) -> None:
        self.ids: collections.Counter[str] = collections.Counter()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                refused = random.random() < 0.1
                if not refused:
                    receiver.ids[body["id"]] += 1
                self.send_response(503 if refused else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                return  # a watcher that is killed leaves its connection

        server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{server.server_port}/"
        threading.Thread(target=server.serve_forever, daemon=True).start()


def write_images(folder: Path, count: int, rate: float) -> None:
    """Write small images, no two alike; every fourth in two steps, as a slow camera does."""
    rng = np.random.default_rng(0)
    for number in range(count):
        array = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        data = cv2.imencode(".png", array)[1].tobytes()
        path = folder / f"{number:06d}.png"
        with path.open("wb") as file:
            file.write(data[:500])
            if number % 4 == 0:
                file.flush()
                time.sleep(0.005)
            file.write(data[500:])
        time.sleep(1 / rate)


def main() -> None:
    """Run the benchmark and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=float, default=400.0, help="images written per second")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        data = toolkit.load_dataset(
            make_sample(work / "sample", seed=1, size=64, train_good=12, test_good=6, per_defect=6)
        )
        run = toolkit.train("patchcore", data, runs=work / "runs", device="cpu", **SMALL)
        folder, hook = work / "camera", Receiver()
        folder.mkdir()
        writer = threading.Thread(
            target=write_images, args=[folder, options.images, options.rate], daemon=True
        )
        lines = work / "answers.jsonl"
        command = [*CLI, "watch", str(run.path), str(folder), "--state", str(work / "state")]
        command += ["--settle", "0.1", "--sink", hook.address, "--sink", f"file:{lines}"]
        ledger_file = work / "state/ledger.sqlite"
        started, kills, before = time.monotonic(), 0, -1
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        writer.start()
        goals = sorted(random.uniform(0, 0.95) * options.images for _ in range(options.kills))
        while True:
            time.sleep(random.uniform(0.05, 0.3))
            assert process.poll() is None, "the watcher has ended by itself"
            done = count(ledger_file)
            if kills < options.kills and done >= goals[kills] and done > before:
                process.send_signal(signal.SIGKILL)
                process.wait()
                before, kills = done, kills + 1
                print(f"killed {kills} times, {done} answered", flush=True)
                process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            elif done >= options.images and kills == options.kills:
                stats = Ledger(ledger_file, read_only=True).stats()
                if not stats["waiting"]:
                    break
        seconds = time.monotonic() - started
        process.terminate()
        process.wait()
        report(work, options.images, hook, lines)
        print(f"{kills} kills, {seconds:.0f} s")


def count(path: Path) -> int:
    """Return the number of answers in a ledger that may not be there yet."""
    try:
        return Ledger(path, read_only=True).count()
    except toolkit.errors.ToolkitError:
        return 0


def report(work: Path, images: int, hook: Receiver, lines: Path) -> None:
    """Print the counts of all places."""
    rows = Ledger(work / "state/ledger.sqlite", read_only=True).answers()
    answers = collections.Counter(row["image"] for row in rows)
    ids = [json.loads(line)["id"] for line in lines.read_text().splitlines()]
    known = {row["uid"] for row in rows}
    left = sum(1 for _ in (work / "camera").glob("*.png"))
    placed = sum(1 for name in ("ok", "nok", "review")
                 for _ in (work / "camera" / name).glob("*.png"))  # fmt: skip
    failed = sum(bool(row["reason"]) for row in rows)
    print(f"images {images}; answers {len(rows)}, of different images {len(answers)}")
    print(f"NOK without a score {failed}; sorted {placed}, left in the folder {left}")
    print(
        f"JSON Lines {len(ids)}, different {len(set(ids))}, of the ledger {len(known & set(ids))}"
    )
    print(
        f"webhook: {len(known & set(hook.ids))} of {len(known)} ids received, "
        f"{sum(hook.ids.values()) - len(hook.ids)} of them again, "
        f"{len(set(hook.ids) - known)} unknown"
    )


if __name__ == "__main__":
    main()

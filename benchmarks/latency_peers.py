"""Measure our predictions beside those of other tools on the same files, image by image in turn.

    python benchmarks/latency_peers.py IMAGES --patchcore RUN --anomalib PYTHON
    python benchmarks/latency_peers.py IMAGES --yolo RUN --yolo-weights yolo11n.pt

IMAGES is a folder of images. Each tool has a process of its own, which answers one file at a time
while the others wait: anomalib's `OpenVINOInferencer` (PYTHON is that of an environment with
`anomalib[openvino]`; its PatchCore has the same backbone and input size and as many patches, of
random numbers, on which its speed does not depend), and Ultralytics' `YOLO` with its own OpenVINO
export of the same network at the run's input size. Times are from the file to its result, medians
and 95th percentiles in milliseconds after a warm-up. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.data.images import is_image_file
from toolkit.runs.environment import environment
from toolkit.runs.run import Run

_WARM_UP = 5


class Tool:
    """A process that answers the name of a file with the seconds that its prediction took."""

    def __init__(self, python: str, part: str, **options: Any) -> None:
        self._process = subprocess.Popen(
            [python, __file__.replace(".py", "_side.py"), part, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()

    def seconds(self, file: Path) -> float:
        """Predict a file."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{file}\n")
        self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # other tools print as they like
            if line.startswith('{"tool": '):
                return dict(json.loads(line))
        raise SystemExit("the other tool has ended; its message stands above")


def main() -> None:
    """Parse the options, measure, print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--patchcore", type=Path)
    parser.add_argument("--anomalib", default=sys.executable, help="a Python that has anomalib")
    parser.add_argument("--yolo", type=Path)
    parser.add_argument("--yolo-weights", type=Path, help="weights for Ultralytics, as yolo11n.pt")
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": environment()}
    files = sorted(f.resolve() for f in options.images.rglob("*") if is_image_file(f))
    chosen = list(itertools.islice(itertools.cycle(files), options.count + _WARM_UP))
    with tempfile.TemporaryDirectory() as folder:
        if options.patchcore:
            settings = Run.open(options.patchcore).record["settings"]
            peer = Tool(
                options.anomalib, "anomalib", folder=folder, size=settings["image_size"],
                patches=settings["coreset_size"],
            )  # fmt: skip
            record["patchcore"] = beside(options.patchcore, "anomalib", peer, chosen)
        if options.yolo:
            size = Run.open(options.yolo).metadata.get("image_size") or 320
            peer = Tool(
                sys.executable, "ultralytics", folder=folder, size=size,
                weights=str(options.yolo_weights.resolve()),
            )  # fmt: skip
            record["yolo"] = beside(options.yolo, "ultralytics", peer, chosen)
    print(json.dumps(record, indent=2))


def beside(run: Path, name: str, peer: Tool, files: list[Path]) -> dict[str, Any]:
    """Return the times of our run and of the other tool, and their ratio."""
    ours = Tool(sys.executable, "toolkit", run=str(run))
    seconds: dict[str, list[float]] = {"toolkit": [], name: []}
    for number, file in enumerate(files):
        for tool, process in (("toolkit", ours), (name, peer)):
            time.sleep(0.02)  # threads of the last one that still look for work go to sleep
            taken = process.seconds(file)
            if number >= _WARM_UP:
                seconds[tool].append(taken)
    ours.close()
    peer.close()
    medians = {tool: statistics.median(times) for tool, times in seconds.items()}
    return {
        "toolkit": {**ours.about, **times_of(seconds["toolkit"])},
        name: {**peer.about, **times_of(seconds[name])},
        "times faster": round(medians[name] / medians["toolkit"], 2),
        "cores": os.cpu_count(),
    }


def times_of(seconds: list[float]) -> dict[str, float]:
    """Return median and 95th percentile in milliseconds."""
    ordered = sorted(seconds)
    return {
        "ms p50": round(1000 * statistics.median(seconds), 2),
        "ms p95": round(1000 * ordered[int(0.95 * (len(ordered) - 1))], 2),
    }


if __name__ == "__main__":
    main()

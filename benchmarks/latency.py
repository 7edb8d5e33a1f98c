"""Measure prediction: every engine beside torch, from file to result and the network alone.

    python benchmarks/latency.py DATA [--methods patchcore patchcore/fast classifier] [--images 50]

Trains each method shortly on a category in MVTec layout (the speed of a prediction does not depend
on how long it was trained), then predicts its test images with all engines in one process, image by
image in turn, so that a busy moment of the machine touches all of them alike. Prints one JSON
object; times are medians in milliseconds after a warm-up.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

import toolkit
from toolkit.config import find_config, read_yaml
from toolkit.data.images import read_rgb
from toolkit.inference.engines import open_engine
from toolkit.methods.onnx_graph import write_onnx
from toolkit.methods.registry import load_method
from toolkit.runs.environment import environment
from toolkit.runs.run import Run

SETTINGS: dict[str, dict[str, Any]] = {
    "patchcore": {},
    "padim": {},
    "classifier": {"head_epochs": 1, "finetune_epochs": 1},
    "yolo": {"epochs": 1, "image_size": 320},
}
VARIANTS = ("onnxruntime float32", "openvino float32", "openvino bfloat16")
_WARM_UP = 5


def main() -> None:
    """Parse the options, measure, print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    parser.add_argument(
        "--methods", nargs="+", default=list(SETTINGS), help="methods, or configs as patchcore/fast"
    )
    parser.add_argument("--images", type=int, default=50, help="predictions per engine")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    record: dict[str, Any] = {"environment": environment(), "threads": options.threads}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.methods:
            values = read_yaml(find_config(name)) if "/" in name else {"method": name}
            method = values.pop("method")
            values |= SETTINGS.get(method, {})
            run = toolkit.train(method, options.data, runs=Path(folder), device="cpu", **values)
            record[name] = measure(run, options.data, options.images, Path(folder))
    print(json.dumps(record, indent=2))


def measure(run: Run, data: Path, count: int, folder: Path) -> dict[str, Any]:
    """Return medians per engine, and the largest difference of a score from torch's."""
    plain = load_method(run).load(run)
    graph = plain.graph()
    assert graph is not None
    network, path = graph.module, folder / f"{run.method}.onnx"
    free = {"image": {1: "height", 2: "width"}} if graph.any_size else None
    example = {"image": torch.from_numpy(graph.example)}
    write_onnx(network, example, graph.outputs, path, dynamic_axes=free)
    inputs: list[np.ndarray] = []

    def in_torch(image: np.ndarray) -> list[np.ndarray]:
        inputs[:] = [image]
        with torch.inference_mode():
            return [one.numpy() for one in network(torch.from_numpy(image))]

    networks = {"torch": in_torch, **{name: open_engine(path, name) for name in VARIANTS}}
    predictors = {k: plain if k == "torch" else plain.with_engine(v) for k, v in networks.items()}
    recorder = plain.with_engine(in_torch)
    files = list(itertools.islice(itertools.cycle(sorted(data.glob("test/*/*.png"))), count))
    times: dict[str, dict[str, list[float]]] = {
        name: {"file to result": [], "image to result": [], "network": []} for name in networks
    }
    apart = dict.fromkeys(networks, 0.0)
    for number, file in enumerate([*files[:_WARM_UP], *files]):
        recorder.predict([read_rgb(file)])
        (one,) = inputs
        wanted = None
        for name, predictor in predictors.items():
            started = time.perf_counter()
            image = read_rgb(file)
            decoded = time.perf_counter()
            (found,) = predictor.predict([image])
            ended = time.perf_counter()
            networks[name](one)
            alone = time.perf_counter() - ended
            wanted = found.score if wanted is None else wanted
            apart[name] = max(apart[name], abs(found.score - wanted))
            if number >= _WARM_UP:
                times[name]["file to result"].append(ended - started)
                times[name]["image to result"].append(ended - decoded)
                times[name]["network"].append(alone)
    return {
        name: {**{part: milliseconds(t) for part, t in parts.items()}, "score differs": apart[name]}
        for name, parts in times.items()
    }


def milliseconds(seconds: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return round(1000 * statistics.median(seconds), 2)


if __name__ == "__main__":
    main()

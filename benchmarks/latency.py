"""Measure prediction: every engine beside torch, from file to result and the network alone.

    python benchmarks/latency.py DATA [--methods patchcore patchcore/fast sam] [--images 50]

Trains each method shortly on a category in MVTec layout (what a network takes does not depend on
how long it was trained; a YOLO of one epoch leaves more boxes to suppress), then predicts its test
images with all engines in one process, image by image in turn, so that a busy moment of the machine
touches all of them alike. Prints one JSON object; times are medians in milliseconds after a
warm-up. SAM is measured without training, with one box prompt per image and with ten; its IoU under
true boxes is given per engine, with the decoder in the engine, too, and in torch.

`share of peak`: floating-point operations of the network (convolutions and matrix products, as
torch counts them) per second, over those of a matrix product of 2048 x 2048 in torch, of the same
precision.
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
from toolkit.inference.engine_files import open_engine, write_network
from toolkit.methods.base import Predictor
from toolkit.methods.registry import load_method
from toolkit.prediction import Boxes, Prediction
from toolkit.runs.environment import computes_bfloat16, environment
from toolkit.runs.run import Run

SETTINGS: dict[str, dict[str, Any]] = {
    "patchcore": {},
    "padim": {},
    "classifier": {"head_epochs": 1, "finetune_epochs": 1},
    "yolo": {"epochs": 1, "image_size": 320},
}
BFLOAT16 = computes_bfloat16(torch.device("cpu"))  # elsewhere it is float32, or emulated
VARIANTS = ("onnxruntime float32", "openvino float32", "openvino bfloat16")[: 2 + BFLOAT16]
_WARM_UP = 5


def main() -> None:
    """Parse the options, measure, print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[*SETTINGS, "sam"],
        help="methods, or configs as patchcore/fast",
    )
    parser.add_argument("--images", type=int, default=50, help="predictions per engine")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    record: dict[str, Any] = {"environment": environment(), "threads": options.threads}
    record["peak GFLOP/s"] = peaks()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.methods:
            if name == "sam":
                record[name] = measure_sam(options.data, options.images, Path(folder))
                continue
            values = read_yaml(find_config(name)) if "/" in name else {"method": name}
            method = values.pop("method")
            values |= SETTINGS.get(method, {})
            run = toolkit.train(method, options.data, runs=Path(folder), device="cpu", **values)
            record[name] = measure(
                run, options.data, options.images, Path(folder), record["peak GFLOP/s"]
            )
    print(json.dumps(record, indent=2))


def peaks() -> dict[str, float]:
    """Return the GFLOP/s of a matrix product, the best of 20, by precision."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))[: 1 + BFLOAT16]:
        one = torch.randn(2048, 2048).to(dtype)
        seconds = []
        for _ in range(20):
            started = time.perf_counter()
            one @ one
            seconds.append(time.perf_counter() - started)
        found[name] = round(2 * 2048**3 / min(seconds) / 1e9, 1)
    return found


def count_gflop(network: torch.nn.Module, image: np.ndarray) -> float:
    """Return the GFLOP of one call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.from_numpy(image))
    return float(counter.get_total_flops() / 1e9)


def measure(
    run: Run, data: Path, count: int, folder: Path, peak: dict[str, float]
) -> dict[str, Any]:
    """Return medians per engine, and the largest difference of a score from torch's."""
    plain = load_method(run).load(run)
    graph = plain.graph()
    assert graph is not None
    network, path = graph.module, folder / f"{run.method}.onnx"
    write_network(graph, path, run.path)
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
    gflop = count_gflop(network, inputs[0])

    def share(name: str) -> float:
        precision = "bfloat16" if name.endswith("bfloat16") else "float32"
        return round(gflop / statistics.median(times[name]["network"]) / peak[precision], 2)

    return {"GFLOP": round(gflop, 2)} | {
        name: {
            **{part: milliseconds(t) for part, t in parts.items()},
            "share of peak": share(name),
            "score differs": apart[name],
        }
        for name, parts in times.items()
    }


class Prompter(Predictor):
    """Prompts with boxes that are set, at once."""

    boxes: Any = None

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Return the boxes."""
        return [Prediction(1.0, boxes=self.boxes) for _ in images]


def measure_sam(data: Path, count: int, folder: Path) -> dict[str, Any]:
    """Return medians per engine and number of prompts, and the mean IoU under true boxes."""
    from toolkit.data.images import read_truth
    from toolkit.data.regions import regions_of, union_box
    from toolkit.methods.sam.model import ENCODER_KEY, start_model
    from toolkit.methods.sam.predictor import SamPredictor
    from toolkit.methods.sam.settings import SamSettings
    from toolkit.methods.sam.tta import Decoders

    settings, prompter = SamSettings(crop_below=0.0, score_ratio=0.0), Prompter()
    run = Run.create(folder, method="sam", settings={}, split={}, data={}, name="sam")
    sam = start_model(settings, run)
    plain = SamPredictor(Decoders(sam), settings, run.metadata[ENCODER_KEY], prompter)
    encoder, decoder = folder / "encoder.onnx", folder / "decoder.onnx"
    write_network(plain.graph(), encoder, run.path)
    write_network(plain.parts()["tuned"], decoder, run.path)
    predictors: dict[str, Predictor] = {"torch": plain}
    for name in VARIANTS:
        encoding = plain.with_engine(open_engine(encoder, name))
        predictors[f"{name}, decoder in torch"] = encoding
        decoders = {"tuned": open_engine(decoder, name)}
        predictors[name] = encoding.with_parts(decoders, plain.prompters())
    times: dict[str, dict[str, list[float]]] = {
        name: {"one prompt": [], "ten prompts": [], "iou": []} for name in predictors
    }
    defects = [s for s in toolkit.load_dataset(data).samples if s.is_defect]
    samples = list(itertools.islice(itertools.cycle(defects), count))
    for number, sample in enumerate([*samples[:_WARM_UP], *samples]):
        image, truth = read_rgb(sample.image), read_truth(sample)
        box = np.array([union_box([region.box_xyxy for region in regions_of(truth)])], np.float32)
        shifted = np.repeat(box, 10, axis=0) + np.arange(10, dtype=np.float32)[:, None] % 3
        shifted = np.minimum(shifted, [*truth.shape[::-1], *truth.shape[::-1]]).astype(np.float32)
        for name, predictor in predictors.items():
            for prompts, boxes in (("one prompt", box), ("ten prompts", shifted)):
                labels = ("defect",) * len(boxes)
                prompter.boxes = Boxes(boxes, np.ones(len(boxes), np.float32), labels)
                started = time.perf_counter()
                (found,) = predictor.predict([image])
                seconds = time.perf_counter() - started
                if number >= _WARM_UP:
                    times[name][prompts].append(seconds)
                    if len(boxes) == 1:
                        both, either = found.mask & truth, found.mask | truth
                        times[name]["iou"].append(float(both.sum() / either.sum()))
    return {
        name: {
            **{key: milliseconds(parts[key]) for key in ("one prompt", "ten prompts")},
            "ten against one": round(
                statistics.median(parts["ten prompts"]) / statistics.median(parts["one prompt"]), 2
            ),
            "IoU": round(statistics.fmean(parts["iou"]), 4),
        }
        for name, parts in times.items()
    }


def milliseconds(seconds: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return round(1000 * statistics.median(seconds), 2)


if __name__ == "__main__":
    main()

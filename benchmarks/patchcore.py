"""Measure PatchCore: fit, coreset, prediction, memory, accuracy; optionally beside anomalib.

    python benchmarks/patchcore.py DATA [--threads 2] [--coreset-patches 214000]
    python benchmarks/patchcore.py DATA --anomalib-python /path/to/env/bin/python

The other tool runs in its own process and environment, on the same images at the same size, with
the same backbone weights, layers and coreset ratio. It normalises pixels by ImageNet's mean and
deviation; for Lite0 that is contrast=2.2 here (but for a shift of colour by less than a tenth).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.config import build_settings, parse_overrides, settings_dict
from toolkit.data.layouts import read_dataset
from toolkit.data.splits import Split, make_plan
from toolkit.runs.machine import environment, peak_memory_bytes, seed_everything


def main() -> None:
    """Parse the options, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    parser.add_argument("--threads", type=int, default=2, help="torch and OpenCV threads")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="setting of patchcore"
    )
    parser.add_argument(
        "--coreset-patches", type=int, default=0, help="also time coresets of so many patches"
    )
    parser.add_argument("--coreset-ratio", type=float, default=0.1, help="share of them to choose")
    parser.add_argument(
        "--exact", type=int, default=500, help="choices of the exact coreset to time; 0: all"
    )
    parser.add_argument(
        "--anomalib-python", type=Path, help="python of an environment that has anomalib"
    )
    parser.add_argument(
        "--anomalib-choices",
        type=int,
        default=0,
        help="let anomalib choose so many patches and extrapolate the rest; 0: all. The others are "
        "drawn at random then, so that its accuracy means nothing",
    )
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:  # in a process of its own, so that the peak memory is this measurement's alone
        options.ours.write_text(json.dumps(_measure_method(options)))
        return
    record: dict[str, Any] = {"environment": environment(), "threads": options.threads}
    record["ours"] = _in_own_process(options)
    if options.coreset_patches:
        record["coreset"] = _measure_coreset(options)
    if options.anomalib_python:
        record["anomalib"] = _measure_anomalib(options)
    print(json.dumps(record, indent=2))


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


def _in_own_process(options: argparse.Namespace) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "ours.json"
        subprocess.run([sys.executable, *sys.argv, "--ours", str(answer)], check=True)
        return json.loads(answer.read_text())


def _split(data: Path) -> Split:
    dataset = read_dataset(data)
    return make_plan(dataset, protocol="official").fold(dataset, 0)


def _limit_threads(threads: int) -> None:
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _measure_method(options: argparse.Namespace) -> dict[str, Any]:
    from toolkit.methods.patchcore.method import PatchCore
    from toolkit.runs.run import Run

    _limit_threads(options.threads)
    seed_everything(0)
    split = _split(options.data)
    settings = build_settings(PatchCore.Settings, parse_overrides(options.set), source="--set")
    method = PatchCore(settings)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(
            Path(folder), method="patchcore", settings=settings_dict(settings), split={}, data={}
        )
        started = time.perf_counter()
        method.fit(split, run)
        fit_seconds = time.perf_counter() - started
        list(method.predict(split.val[:2], run))  # first calls set up kernels and threads
        predictions, seconds, cpu_seconds = [], [], []
        iterator = method.predict(split.test, run)
        for _ in split.test:
            started, cpu_started = time.perf_counter(), time.process_time()
            predictions.append(next(iterator))
            seconds.append(time.perf_counter() - started)
            cpu_seconds.append(time.process_time() - cpu_started)
        peak = peak_memory_bytes()
        return {
            "settings": settings_dict(settings),
            "facts": run.facts,
            "fit_seconds": fit_seconds,
            # The first one also reads the bank and builds the network.
            "predict_ms_median": 1000 * statistics.median(seconds[1:]),
            "predict_ms_best": 1000 * min(seconds),
            "predict_cpu_ms_median": 1000 * statistics.median(cpu_seconds[1:]),
            "peak_memory_mb": peak / 2**20,
            **_accuracy(split, predictions),
        }


def _accuracy(split: Split, predictions: list[Any]) -> dict[str, Any]:
    import cv2
    from sklearn.metrics import roc_auc_score

    from toolkit.data.images import read_truth
    from toolkit.metrics.pixel import pixel_metrics

    class Pairs:
        def __iter__(self) -> Iterator[Any]:
            for sample, prediction in zip(split.test, predictions, strict=True):
                truth = read_truth(sample)
                size_wh = (truth.shape[1], truth.shape[0])
                yield cv2.resize(prediction.score_map, size_wh), truth

    pixel = pixel_metrics(Pairs())
    labels = [s.is_defect for s in split.test]
    return {
        "image_auroc": float(roc_auc_score(labels, [p.score for p in predictions])),
        "pixel_auroc": pixel.auroc,
        "pixel_average_precision": pixel.average_precision,
        "aupro_0.3": pixel.aupro[0.3],
    }


def _measure_coreset(options: argparse.Namespace) -> dict[str, Any]:
    """Time the choices on real patches, and how far the approximate one covers less."""
    import torch

    from toolkit.data.images import read_rgb
    from toolkit.methods.features.backbone import build_backbone
    from toolkit.methods.features.extractor import FeatureExtractor
    from toolkit.methods.features.reservoir import Reservoir
    from toolkit.methods.features.whitening import fit_whitening
    from toolkit.methods.patchcore.coreset import (
        covering_radius,
        exact_coreset,
        grouped_coreset,
        projection,
    )
    from toolkit.methods.patchcore.settings import PatchCoreSettings

    _limit_threads(options.threads)
    settings = build_settings(PatchCoreSettings, parse_overrides(options.set), source="--set")
    backbone = build_backbone(settings.backbone, weights=settings.weights, layers=settings.layers)
    extractor = FeatureExtractor(
        backbone,
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        stride=settings.stride,
        contrast=settings.contrast,
    )
    reservoir = Reservoir(options.coreset_patches, extractor.channels, seed=0)
    for sample in _split(options.data).train:
        reservoir.add(extractor(read_rgb(sample.image)))
    features = reservoir.rows()
    matrix = projection(extractor.channels, settings.projection, seed=0)
    if settings.whitening >= 0:
        matrix = (
            fit_whitening(features, extractor.layer_channels, shrinkage=settings.whitening, seed=0)
            @ matrix
        )
    projected = features @ matrix
    size = round(options.coreset_ratio * len(projected))
    started = time.perf_counter()
    grouped = grouped_coreset(projected, size, seed=0)
    grouped_seconds = time.perf_counter() - started
    steps = options.exact or size
    started = time.perf_counter()
    exact = exact_coreset(projected, min(steps, size), seed=0)
    exact_seconds = time.perf_counter() - started
    record = {
        "patches": len(projected),
        "size": size,
        "grouped_seconds": grouped_seconds,
        "exact_choices_timed": len(exact),
        "exact_seconds_for_all": exact_seconds / len(exact) * size,
        "random_radius": covering_radius(
            projected, projected[torch.randperm(len(projected))[:size]]
        ),
        "grouped_radius": covering_radius(projected, projected[grouped]),
    }
    if len(exact) == size:
        record["exact_radius"] = covering_radius(projected, projected[exact])
    return record


_ANOMALIB = """
import json, resource, sys, time
options = json.loads(sys.argv[1])
import torch
torch.set_num_threads(options["threads"])
started = time.perf_counter()
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models import Patchcore
from anomalib.models.components import feature_extractors
imported = time.perf_counter() - started
import timm
original = timm.create_model
def with_our_weights(name, pretrained=False, **words):
    network = original(name, pretrained=False, **words)
    if options["state"]:
        state = torch.load(options["state"], weights_only=True)
        missing = network.load_state_dict(state, strict=False).missing_keys
        assert not missing, missing
    return network
timm.create_model = with_our_weights
datamodule = MVTecAD(root=options["root"], category=options["category"],
                     train_batch_size=8, eval_batch_size=1, num_workers=0)
size = (options["image_size"], options["image_size"])
from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy
choices = {}
original_choose, original_next = KCenterGreedy.select_coreset_idxs, KCenterGreedy.get_new_idx
def next_and_time(self):
    choices.setdefault("times", []).append(time.perf_counter())
    return original_next(self)
def choose_some(self):
    size, limit = self.coreset_size, options["choices"] or self.coreset_size
    self.coreset_size = min(size, limit)
    chosen = original_choose(self)
    times = choices.pop("times")
    choices.update(patches=self.n_observations, size=size, chosen=len(chosen),
                   dimensions=self.features.shape[1],
                   seconds_per_choice=(times[-1] - times[0]) / (len(times) - 1))
    rest = torch.randperm(self.n_observations)
    rest = rest[~torch.isin(rest, torch.tensor(chosen))][: size - len(chosen)]
    return chosen + rest.tolist()
KCenterGreedy.select_coreset_idxs, KCenterGreedy.get_new_idx = choose_some, next_and_time
model = Patchcore(backbone=options["backbone"], layers=options["layers"], pre_trained=False,
                  coreset_sampling_ratio=options["ratio"],
                  pre_processor=Patchcore.configure_pre_processor(image_size=size))
engine = Engine(accelerator="cpu", default_root_dir=options["out"])
started = time.perf_counter()
engine.fit(model=model, datamodule=datamodule)
fitted = time.perf_counter()
results = engine.test(model=model, datamodule=datamodule)
tested = time.perf_counter()
count = len(datamodule.test_data)
print("RESULT " + json.dumps({
    "import_seconds": imported, "fit_seconds": fitted - started, "coreset": choices,
    "fit_seconds_extrapolated": fitted - started
        + (choices["size"] - choices["chosen"]) * choices["seconds_per_choice"],
    "test_ms_per_image": 1000 * (tested - fitted) / count,
    "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "results": [{k: float(v) for k, v in r.items()} for r in results]}))
"""


def _measure_anomalib(options: argparse.Namespace) -> Any:
    import torch

    from toolkit.methods.features.backbone import build_backbone
    from toolkit.methods.patchcore.settings import PatchCoreSettings
    from toolkit.weights.lite0 import LITE0_NAME, lite0_state_dict

    settings = build_settings(PatchCoreSettings, parse_overrides(options.set), source="--set")
    layers = build_backbone(settings.backbone, weights="none", layers=settings.layers).layers
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state.pt"
        if settings.backbone == LITE0_NAME and settings.weights == "auto":
            torch.save(lite0_state_dict(), state)
        words = {
            "threads": options.threads,
            "root": str(options.data.resolve().parent),
            "category": options.data.resolve().name,
            "backbone": settings.backbone,
            "layers": list(layers),
            "image_size": settings.image_size,
            "ratio": settings.coreset_ratio,
            "choices": options.anomalib_choices,
            "state": str(state) if state.exists() else "",
            "out": folder,
        }
        script = Path(folder) / "anomalib_patchcore.py"
        script.write_text(_ANOMALIB)
        done = subprocess.run(
            [str(options.anomalib_python), str(script), json.dumps(words)],
            capture_output=True,
            text=True,
            check=False,
        )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    raise SystemExit(f"{options.anomalib_python}: anomalib failed\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()

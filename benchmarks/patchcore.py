"""Measure PatchCore: fit, coreset, prediction, memory, accuracy; optionally beside anomalib.

    python benchmarks/patchcore.py DATA [--threads 2] [--coreset-patches 214000]
    python benchmarks/patchcore.py DATA --anomalib-python /path/to/env/bin/python

Beside anomalib two ways of ours are measured, each in a process of its own: the exact coreset with
all dimensions compared, and the default (approximate coreset, leading axes). They share training
images, size, backbone weights, layers, normalisation and coreset ratios, and raw maps of all are
judged by the same metrics at the size of the images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.config import build_settings, parse_overrides, settings_dict
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.methods.scorers.patchcore import PatchCore, PatchCoreSettings
from toolkit.runs.environment import (
    environment,
    keep_freed_memory,
    peak_memory_bytes,
    seed_everything,
)


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
        "--ratios", type=float, nargs="+", default=[0.01, 0.1],
        help="coreset ratios beside anomalib; its fit is measured at the first, extrapolated to "
        "the others",
    )  # fmt: skip
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train-all", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:  # in a process of its own, so that the peak memory is this measurement's alone
        options.ours.write_text(json.dumps(_measure_method(options)))
        return
    record: dict[str, Any] = {"environment": environment(), "threads": options.threads}
    if options.anomalib_python:
        record |= _beside_anomalib(options)
    else:
        record["ours"] = _in_own_process(options, options.set)
    if options.coreset_patches:
        record["coreset"] = _measure_coreset(options)
    print(json.dumps(record, indent=2))


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


def _in_own_process(
    options: argparse.Namespace, settings: Sequence[str], *, train_all: bool = False
) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "ours.json"
        words = [str(options.data), "--threads", str(options.threads), "--ours", str(answer)]
        words += [word for pair in settings for word in ("--set", pair)]
        words += ["--train-all"] * train_all
        subprocess.run([sys.executable, sys.argv[0], *words], check=True)
        return json.loads(answer.read_text())


def _split(data: Path) -> Split:
    dataset = load_dataset(data)
    return make_plan(dataset, protocol="official").fold(dataset, 0)


def _limit_threads(threads: int) -> None:
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _measure_method(options: argparse.Namespace) -> dict[str, Any]:
    import timm  # noqa: F401  (with torchvision: what the features need, before anything is done)

    from toolkit.inference.pipeline import predict_samples
    from toolkit.runs.run import Run

    libraries = peak_memory_bytes()
    keep_freed_memory()  # as every run of the command line does
    _limit_threads(options.threads)
    seed_everything(0)
    split = _split(options.data)
    if options.train_all:  # fitting does not look at the validation part
        split = replace(split, train=(*split.train, *split.val))
    settings = build_settings(PatchCore.Settings, parse_overrides(options.set), source="--set")
    method = PatchCore(settings)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(
            Path(folder), method="patchcore", settings=settings_dict(settings), split={}, data={}
        )
        started = time.perf_counter()
        method.fit(split, run)
        fit_seconds = time.perf_counter() - started
        predictor = method.load(run)
        list(predict_samples(predictor, split.train[:2]))  # first calls set up kernels and threads
        predictions, seconds, cpu_seconds = [], [], []
        iterator = predict_samples(predictor, split.test)
        for _ in split.test:
            started, cpu_started = time.perf_counter(), time.process_time()
            predictions.append(next(iterator))
            seconds.append(time.perf_counter() - started)
            cpu_seconds.append(time.process_time() - cpu_started)
        peak = peak_memory_bytes()
        return {
            "settings": settings_dict(settings),
            "train_images": len(split.train),
            "metadata": run.metadata,
            "fit_seconds": fit_seconds,
            "predict_ms_median": 1000 * statistics.median(seconds),
            "predict_ms_best": 1000 * min(seconds),
            "predict_cpu_ms_median": 1000 * statistics.median(cpu_seconds),
            "peak_memory_mb": peak / 2**20,
            "libraries_memory_mb": libraries / 2**20,
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
                yield cv2.resize(prediction.anomaly_map, size_wh), truth

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
    from toolkit.methods.features.whitening import fit_whitening
    from toolkit.methods.scorers.coreset import (
        Reservoir,
        approximate_coreset,
        covering_radius,
        exact_coreset,
        projected,
        projection,
    )

    _limit_threads(options.threads)
    settings = build_settings(PatchCoreSettings, parse_overrides(options.set), source="--set")
    layers = settings.layers or PatchCore.default_layers.get(settings.backbone, ())
    extractor = FeatureExtractor(
        build_backbone(settings.backbone, weights=settings.weights, layers=layers),
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        stride=settings.feature_stride,
    )
    reservoir = Reservoir(options.coreset_patches, extractor.channels, seed=0)
    for sample in _split(options.data).train:
        reservoir.add(extractor(read_rgb(sample.image)))
    features = reservoir.rows()
    matrix = projection(extractor.channels, settings.projection_dim, seed=0)
    if settings.whitening is not None:
        matrix = (
            fit_whitening(features, extractor.layer_channels, shrinkage=settings.whitening, seed=0)
            @ matrix
        )
    short = projected(features, matrix)
    size = round(options.coreset_ratio * len(short))
    started = time.perf_counter()
    approximate = approximate_coreset(short, size, seed=0)
    approximate_seconds = time.perf_counter() - started
    steps = options.exact or size
    started = time.perf_counter()
    exact = exact_coreset(short, min(steps, size), seed=0)
    exact_seconds = time.perf_counter() - started
    record = {
        "patches": len(short),
        "size": size,
        "approximate_seconds": approximate_seconds,
        "exact_choices_timed": len(exact),
        "exact_seconds_for_all": exact_seconds / len(exact) * size,
        "random_radius": covering_radius(short, short[torch.randperm(len(short))[:size]]),
        "approximate_radius": covering_radius(short, short[approximate]),
    }
    if len(exact) == size:
        record["exact_radius"] = covering_radius(short, short[exact])
    return record


def _beside_anomalib(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both with the same weights, size, layers, normalisation and training images.

    Anomalib chooses one patch after the other, each in the same time, so its fit at further ratios
    is what it took at the first plus the further choices.
    """
    settings = build_settings(PatchCoreSettings, _like_anomalib(options, 0.1), source="--set")
    theirs = _measure_anomalib(options, settings, options.ratios[0])
    record: dict[str, Any] = {"anomalib": theirs, "ratios": {}}
    for ratio in options.ratios:
        coreset = theirs["coreset"]
        further = int(coreset["patches"] * ratio) - coreset["chosen"]
        their_fit = theirs["fit_seconds"] + further * coreset["seconds_per_choice"]
        row: dict[str, Any] = {
            "anomalib_fit_seconds": their_fit,
            "anomalib_fit_is": "measured" if ratio == options.ratios[0] else "extrapolated",
        }
        for kind in ("exact", "approximate"):
            values = _like_anomalib(options, ratio) | {"coreset": kind}
            if kind == "exact":
                values["pca_dim"] = 0
            ours = _in_own_process(
                options, [f"{key}={value}" for key, value in values.items()], train_all=True
            )
            row[kind] = ours | {
                "times_as_fast": {
                    "fit": their_fit / ours["fit_seconds"],
                    "predict": theirs["predict_ms_median"] / ours["predict_ms_median"],
                },
                "share_of_memory": ours["peak_memory_mb"] / theirs["peak_memory_mb"],
                "share_of_memory_beyond_libraries": _beyond(ours) / _beyond(theirs),
            }
        record["ratios"][str(ratio)] = row
    return record


def _beyond(measured: Mapping[str, Any]) -> float:
    """Return what a process took beside the libraries that both sides load, in MB."""
    taken: float = measured["peak_memory_mb"] - measured["libraries_memory_mb"]
    return taken


def _like_anomalib(options: argparse.Namespace, ratio: float) -> dict[str, Any]:
    """Return what makes ours do the same work: nothing is capped, and nothing is whitened."""
    same = {
        "layers": "blocks.2,blocks.4", "image_size": 256, "feature_stride": 0,
        "max_patches": 10**6, "coreset_size": 10**6, "coreset_sampling_ratio": ratio,
        "whitening": "none",
    }  # fmt: skip
    return same | parse_overrides(options.set)


def _measure_anomalib(
    options: argparse.Namespace, settings: PatchCoreSettings, ratio: float
) -> dict[str, Any]:
    import numpy as np
    import torch

    from toolkit.methods.features.backbone import create_network, load_network_weights

    with tempfile.TemporaryDirectory() as folder:
        state, answer = Path(folder) / "state.pt", Path(folder) / "answer.npz"
        network, mean, std = create_network(settings.backbone)
        load_network_weights(network, settings.backbone, settings.weights)
        torch.save(network.state_dict(), state)
        words = {
            "threads": options.threads,
            "root": str(options.data.resolve().parent),
            "category": options.data.resolve().name,
            "backbone": settings.backbone,
            "layers": list(settings.layers),
            "mean": mean,
            "std": std,
            "image_size": settings.image_size,
            "ratio": ratio,
            "state": str(state),
        }
        script = Path(__file__).with_name("anomalib_side.py")
        done = subprocess.run(
            [str(options.anomalib_python), str(script), json.dumps(words), str(answer)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{options.anomalib_python}: anomalib failed\n{done.stderr[-2000:]}")
        found = np.load(answer)
        by_image = {
            Path(name).resolve(): SimpleNamespace(score=score, anomaly_map=anomaly_map)
            for name, score, anomaly_map in zip(
                found["names"], found["scores"], found["maps"], strict=True
            )
        }
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    split = _split(options.data)
    return record | _accuracy(split, [by_image[s.image.resolve()] for s in split.test])


if __name__ == "__main__":
    main()

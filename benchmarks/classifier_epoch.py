"""Seconds of an epoch of resnet18 at 32 pixels over 64 images, of one core.

python benchmarks/classifier_epoch.py DATA [--epochs 8]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.config import build_settings, settings_dict
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.methods.classifier import train
from toolkit.methods.classifier.method import Classifier
from toolkit.methods.classifier.settings import ClassifierSettings
from toolkit.runs.run import Run


def main() -> None:
    """Train a few epochs and print their processor seconds."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # Of the processor: those of the clock depend on what else the machine does.
    train.time.perf_counter = time.process_time
    split = make_plan(load_dataset(options.data), protocol="balanced").fold(
        load_dataset(options.data), 0
    )
    values = {
        "network": "resnet18", "weights": "none", "image_size": 32, "head_epochs": 0,
        "finetune_epochs": options.epochs, "batch": 32, "augmentation_strength": "none",
    }  # fmt: skip
    settings = build_settings(ClassifierSettings, values, source="benchmark")
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(
            Path(folder), method="classifier", settings=settings_dict(settings), split={}, data={}
        )
        Classifier(settings).fit(split, run)
        seconds = [float(row["seconds"]) for row in run.results()]
    middle = statistics.median(seconds)
    print(f"median {middle:.2f} s, {min(seconds):.2f} to {max(seconds):.2f}, {len(seconds)} epochs")


if __name__ == "__main__":
    main()

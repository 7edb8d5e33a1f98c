"""Judge runs by their validation parts, pooled: by these settings are chosen, never by test images.

    python benchmarks/validation.py RUN... [--figures boxes.map50 boxes.map50_95 image.auroc]

The runs are folds of one entry, as `runs/yolo/yolo/yolo11n-fold*`. Prints each fold's figures and
those of all folds pooled, where each image is judged by a model that did not train on it. The
last epoch, or the best, may have been chosen on the same images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset
from toolkit.leaderboards.columns import value_at
from toolkit.metrics.values import Undefined
from toolkit.runs.evaluate import evaluate
from toolkit.runs.run import Run


def main() -> None:
    """Parse the options, judge, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs, one per fold")
    parser.add_argument(
        "--figures", nargs="+", default=["image.auroc", "boxes.map50", "boxes.map50_95"],
        help="dotted paths into metrics.json",
    )  # fmt: skip
    options = parser.parse_args()
    runs = [Run.open(path) for path in options.runs]
    data = runs[0].record["data"]
    dataset = load_dataset(data["root"], layout=data["layout"])
    print(f"| validation part | {' | '.join(options.figures)} |")
    print(f"|---|{'---|' * len(options.figures)}")
    for run in runs:
        print(_line(f"fold {run.record['split']['fold']}", [run], dataset, options.figures))
    if len(runs) > 1:
        print(_line("pooled", runs, dataset, options.figures))


def _line(name: str, runs: list[Run], dataset: Dataset, figures: list[str]) -> str:
    metrics = evaluate(runs, dataset, part="val")
    found = [value_at(metrics, path) for path in figures]
    cells = ["-" if isinstance(one, Undefined) else f"{one:.3f}" for one in found]
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

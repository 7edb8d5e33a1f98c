"""What test-time augmentation gives and costs: finished runs predicted again with and without it.

    python benchmarks/tta.py RUN... [--data DIR]

Each run predicts its validation and its test part with `tta` off and on. Prints one row each: the
figures of both parts that the method has (image AUROC, mAP50, mAP50-95, mask IoU), and the median
milliseconds per image, decoding included, with the threads that are set. For `yolo`, `yolo-world`
and `sam`; the classifier chooses its epoch with `tta`, so it is trained twice instead.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.data.types import Dataset
from toolkit.files import write_json
from toolkit.inference.pipeline import predict_samples
from toolkit.leaderboards.columns import value_at
from toolkit.methods.registry import load_method
from toolkit.metrics.values import Undefined
from toolkit.runs.evaluate import dataset_of, evaluate
from toolkit.runs.prediction_io import write_predictions
from toolkit.runs.run import Run

FIGURES = {
    "AUROC": "image.auroc",
    "mAP50": "boxes.map50",
    "mAP50-95": "boxes.map50_95",
    "IoU": "masks.iou",
}


def main() -> None:
    """Parse the options, predict, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs of methods with tta")
    parser.add_argument("--data", type=Path, help="where the data set lies now, if it was moved")
    options = parser.parse_args()
    heads = [f"{part} {name}" for part in ("val", "test") for name in FIGURES]
    print(f"| run | tta | {' | '.join(heads)} | ms |\n|---|---|{'---|' * (len(heads) + 1)}")
    for path in options.runs:
        if Run.open(path).method == "classifier":
            raise SystemExit(f"{path}: train the classifier with --tta and compare the two runs")
        dataset = dataset_of(Run.open(path), moved_to=options.data)
        for tta in (False, True):
            cells = " | ".join(_predict_again(path, dataset, tta=tta))
            print(f"| {path.parent.name}/{path.name} | {'on' if tta else 'off'} | {cells} |",
                  flush=True)  # fmt: skip


def _predict_again(path: Path, dataset: Dataset, *, tta: bool) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        shutil.copytree(path, copy, ignore=shutil.ignore_patterns("predictions", "plots", "data"))
        (copy / "metrics.json").unlink()
        run = Run.open(copy)
        run.record["settings"]["tta"] = tta
        write_json(copy / "run.json", run.record)
        (copy / "predictions").mkdir()
        predictor = load_method(run).load(run)
        for part in ("val", "test"):
            samples = [dataset.by_id[name] for name in run.record["split"][part]]
            write_predictions(copy / "predictions", part, predict_samples(predictor, samples))
        found = {part: evaluate(run, dataset, part=part) for part in ("val", "test")}
    cells = [_cell(value_at(found[p], path)) for p in ("val", "test") for path in FIGURES.values()]
    return [*cells, f"{found['test']['speed']['ms_per_image_median']:.0f}"]


def _cell(value: Any) -> str:
    return "-" if isinstance(value, Undefined) else f"{value:.3f}"


if __name__ == "__main__":
    main()

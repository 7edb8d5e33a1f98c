"""What bfloat16 costs: scores and image AUROC of runs on their test part, beside float32.

    python benchmarks/precision.py RUN [RUN ...]

Each run predicts its test part in OpenVINO with both precisions, whatever the gate says, and its
validation part in float32. Prints a Markdown table: image AUROC in float32 and bfloat16, the
largest and the mean square difference of a test score, and the range of the validation scores, by
which `toolkit.inference.parity` judges.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from sklearn.metrics import roc_auc_score

from toolkit.data.images import read_rgb
from toolkit.data.types import Sample
from toolkit.inference.engine_files import open_engine, write_network
from toolkit.methods.registry import load_method
from toolkit.runs.evaluate import dataset_of
from toolkit.runs.run import Run


def main() -> None:
    """Parse the options and print one row per run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    print("| run | float32 | bfloat16 | largest difference | root mean square | range | share |")
    print("|---|---|---|---|---|---|---|")
    for path in parser.parse_args().runs:
        print(row(Run.open(path)), flush=True)


def row(run: Run) -> str:
    """Return the row of a run."""
    predictor = load_method(run).load(replace(run, record={**run.record, "device": "cpu"}))
    graph = predictor.graph()
    assert graph is not None
    dataset = dataset_of(run)
    samples = {p: [dataset.by_id[i] for i in run.record["split"][p]] for p in ("val", "test")}

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        write_network(graph, file, run.path)

        def in_precision(name: str) -> Callable[[list[Sample]], np.ndarray]:
            fast = predictor.with_engine(open_engine(file, f"openvino {name}"))
            return lambda part: np.array([fast.predict([read_rgb(s.image)])[0].score for s in part])

        whole, half = in_precision("float32"), in_precision("bfloat16")
        spread = float(np.ptp(whole(samples["val"])))
        ours, theirs = whole(samples["test"]), half(samples["test"])
    truth = [sample.is_defect for sample in samples["test"]]
    largest = float(np.abs(ours - theirs).max())
    return (
        f"| {run.record['data']['name']} {run.metadata.get('entry', run.method)} "
        f"| {roc_auc_score(truth, ours):.4f} | {roc_auc_score(truth, theirs):.4f} | {largest:.3f} "
        f"| {float(np.sqrt(np.mean((ours - theirs) ** 2))):.3f} | {spread:.3f} "
        f"| {largest / spread:.3f} |"
    )


if __name__ == "__main__":
    main()

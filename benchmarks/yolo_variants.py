"""Compare settings of the detectors: mosaic, pasted defects, background images, what is trained.

    python benchmarks/yolo_variants.py DATA [--fold 0] [--image-size 192]
    python benchmarks/yolo_variants.py DATA --only full

Every variant makes about the same number of optimizer steps on the same fold, as many as the
default has, and is evaluated on the validation part; the test part is not used. A finished
variant is not trained again, so the command can be repeated.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.errors import ToolkitError
from toolkit.runs.evaluate import evaluate
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training

VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("yolo", "default", {}),
    ("yolo", "320 pixels", {"image_size": 320}),
    ("yolo", "tiles", {"tile": True}),
    ("yolo", "mosaic", {"mosaic": 1.0}),
    ("yolo", "mosaic and scale 0.5", {"mosaic": 1.0, "scale": 0.5}),
    ("yolo", "nothing pasted", {"copy_paste_per_image": 0}),
    ("yolo", "background images 0", {"background_images": "0"}),
    ("yolo", "background images 0.1", {"background_images": "0.1"}),
    ("yolo", "background images all", {"background_images": "all"}),
    ("yolo", "backbone frozen", {"freeze_layers": 10}),
    ("yolo-world", "full", {}),
    ("yolo-world", "head", {"trainable": "head"}),
    ("yolo-world", "prompts", {"trainable": "prompts", "train_logit_scale": True}),
)
"""Method, name of the variant, and what differs from the default settings."""


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--image-size", type=int, default=0, help="of all; 0: as each variant")
    parser.add_argument("--only", help="train the variant of this name alone")
    parser.add_argument("--runs", type=Path, default=Path("runs/yolo-variants"))
    options = parser.parse_args()
    dataset = load_dataset(options.data)
    split = make_plan(dataset).fold(dataset, options.fold)
    print("| method | variant | images | epochs | mAP50 | mAP50-95 | AUROC | seconds | loading |")
    print("|---|---|---|---|---|---|---|---|---|")
    for method, name, changes in VARIANTS:
        if options.only in (None, name):
            print(_line(method, name, _train(method, name, changes, split, options), split))


def _train(
    method: str, name: str, changes: dict[str, Any], split: Split, options: argparse.Namespace
) -> Run:
    if options.image_size:
        changes = {**changes, "image_size": options.image_size}
    task = TrainingTask(
        method=method, entry=name, settings=changes, source=name, fold=options.fold,
        name=name.replace(" ", "-"),
    )  # fmt: skip
    return run_training(task, split, runs=options.runs, resume=True)


def _line(method: str, name: str, run: Run, split: Split) -> str:
    metrics = evaluate([run], split.dataset, part="val")
    boxes, image, metadata = metrics["boxes"], metrics["image"], run.metadata
    loading = statistics.median(float(row["loading_share"]) for row in run.results())
    return (
        f"| {method} | {name} | {metadata['train_images']} | {metadata['epochs_done']} | "
        f"{boxes['map50']:.3f} | {boxes['map50_95']:.3f} | {image['auroc']:.3f} | "
        f"{metadata['fit_seconds']:.0f} | {100 * loading:.0f} % |"
    )


if __name__ == "__main__":
    try:
        main()
    except ToolkitError as error:
        sys.exit(f"yolo_variants: {error}")

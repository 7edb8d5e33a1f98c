"""Compare settings of the detectors: mosaic, pasted defects, background images, what is trained.

    python benchmarks/yolo_variants.py DATA [--fold 0] [--image-size 192] [--steps 80]
    python benchmarks/yolo_variants.py DATA --only full

Every variant makes about the same number of optimizer steps on the same fold and is evaluated on
the validation part, which measures its epochs as well; the test part is not used. A finished
variant is not trained again, so the command can be repeated.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.config import build_settings
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.errors import ToolkitError
from toolkit.methods.registry import method_class
from toolkit.methods.yolo.settings import YoloSettings, parse_background_images
from toolkit.runs.evaluate import evaluate
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training

VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("yolo", "default", {}),
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
    parser.add_argument("--image-size", type=int, default=192)
    parser.add_argument("--steps", type=int, default=80, help="optimizer steps of each variant")
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
    cls = method_class(method)
    images = _count_images(split, build_settings(cls.Settings, changes, source=name))
    epochs = max(3, round(options.steps / max(1, -(-images // cls.Settings().batch))))
    changes = {
        **changes, "image_size": options.image_size, "epochs": epochs, "close_mosaic": epochs // 3
    }  # fmt: skip
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


def _count_images(split: Split, settings: YoloSettings) -> int:
    """Return the number of training images of an epoch; pasting may find no place for a few."""
    defects = sum(s.is_defect for s in split.train)
    good = len(split.train) - defects
    choice = parse_background_images(settings.background_images)
    if choice == "all":
        backgrounds = good
    elif isinstance(choice, float):
        backgrounds = round(choice / (1 - choice) * defects)
    else:
        backgrounds = choice
    return defects * (1 + settings.copy_paste_per_image) + min(backgrounds, good)


if __name__ == "__main__":
    try:
        main()
    except ToolkitError as error:
        sys.exit(f"yolo_variants: {error}")

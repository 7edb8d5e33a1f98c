"""What mosaic, pasted defects, backgrounds and the choice of what learns do for the detectors.

    python benchmarks/yolo_variants.py DATA [--fold 0] [--image-size 192] [--steps 80]
    python benchmarks/yolo_variants.py DATA --only full

Every variant makes about the same number of optimiser steps on the same fold and is judged on the
validation part, on which its best epoch was chosen as well; the test part is not looked at. A
variant that is finished is not trained again, so the command can be repeated.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.config import build_settings, settings_dict
from toolkit.data.images import read_truth
from toolkit.data.layouts import read_dataset
from toolkit.data.regions import regions_of
from toolkit.data.splits import Split, make_plan
from toolkit.errors import ToolkitError
from toolkit.files import read_json, write_json
from toolkit.methods.base import Method
from toolkit.methods.registry import method_class
from toolkit.methods.yolo.settings import background_choice
from toolkit.metrics.boxes import PredictedBoxes, TrueBoxes, box_metrics
from toolkit.metrics.image import image_metrics
from toolkit.prediction import Boxes
from toolkit.runs.environment import seed_everything
from toolkit.runs.run import Run

_FIGURES = "variant.json"


@dataclass(frozen=True)
class Variant:
    """One training: what it is called, its method and what differs from the default settings."""

    name: str
    method: str
    changes: dict[str, Any]


VARIANTS = (
    Variant("default (two pasted, 0.25)", "yolo", {}),
    Variant("mosaic", "yolo", {"mosaic": 1.0}),
    Variant("mosaic and scale 0.5", "yolo", {"mosaic": 1.0, "scale": 0.5}),
    Variant("no further one beside a pasted one", "yolo", {"paste_beside": 0}),
    Variant("nothing pasted", "yolo", {"copy_paste": 0}),
    Variant("backgrounds 0", "yolo", {"backgrounds": "0"}),
    Variant("backgrounds 0.1", "yolo", {"backgrounds": "0.1"}),
    Variant("backgrounds all", "yolo", {"backgrounds": "all"}),
    Variant("backbone frozen in the first third", "yolo", {"freeze": 10, "freeze_epochs": 2}),
    Variant("full", "yolo-world", {"train": "full"}),
    Variant("head", "yolo-world", {"train": "head"}),
    Variant("prompts", "yolo-world", {"train": "prompts", "tune_scale": True}),
)


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--image-size", type=int, default=192)
    parser.add_argument("--steps", type=int, default=80, help="optimiser steps of each variant")
    parser.add_argument("--only", help="train the variant of this name alone")
    parser.add_argument("--runs", type=Path, default=Path("runs/yolo-variants"))
    options = parser.parse_args()
    dataset = read_dataset(options.data)
    split = make_plan(dataset).fold(dataset, options.fold)
    rows = []
    for variant in VARIANTS:
        folder = options.runs / variant.method / variant.name.replace(" ", "-").replace(",", "")
        if options.only in (None, variant.name) and not (folder / _FIGURES).is_file():
            _train(variant, split, options, folder)
        if (folder / _FIGURES).is_file():
            rows.append((variant, read_json(folder / _FIGURES)))
    print("| method | variant | images | epochs | mAP50 | mAP50-95 | AUROC | seconds | loading |")
    print("|---|---|---|---|---|---|---|---|---|")
    for variant, found in rows:
        print(
            f"| {variant.method} | {variant.name} | {found['images']} | {found['epochs']} | "
            f"{found['map50']:.3f} | {found['map50_95']:.3f} | {found['auroc']:.3f} | "
            f"{found['seconds']:.0f} | {100 * found['loading_share']:.0f} % |"
        )


def _train(variant: Variant, split: Split, options: argparse.Namespace, folder: Path) -> None:
    cls = method_class(variant.method)
    images = _images(split, build_settings(cls.Settings, variant.changes, source=variant.name))
    batch = cls.Settings().batch
    epochs = max(3, round(options.steps / max(1, -(-images // batch))))
    changes = variant.changes | {
        "image_size": options.image_size, "epochs": epochs, "close_mosaic": epochs // 3
    }  # fmt: skip
    settings: Any = build_settings(cls.Settings, changes, source=variant.name)
    if (folder / "run.json").is_file():
        run = Run.open(folder)
    else:
        run = Run.create(
            folder.parent.parent, method=variant.method, settings=settings_dict(settings),
            split={"hash": split.plan_hash}, data={"name": split.dataset.name}, seed=0,
            name=folder.name,
        )  # fmt: skip
    seed_everything(0)
    method = cls(settings)
    started = time.perf_counter()
    method.fit(split, run)
    seconds = time.perf_counter() - started
    write_json(folder / _FIGURES, _figures(method, split, run) | {
        "images": images, "epochs": epochs, "seconds": seconds
    })  # fmt: skip


def _images(split: Split, settings: Any) -> int:
    """Return the number of training images of one epoch; pasting may find no place for a few."""
    defects = sum(s.is_defect for s in split.train)
    good = len(split.train) - defects
    choice = background_choice(settings.backgrounds)
    pasted = max(settings.copy_paste, math.ceil(settings.paste_least / defects))
    pasted = pasted if settings.copy_paste else 0
    if choice == "all":
        backgrounds = good
    elif isinstance(choice, float):
        backgrounds = round(choice / (1 - choice) * defects)
    else:
        backgrounds = min(choice, good)
    return defects * (1 + pasted) + backgrounds


def _figures(method: Method[Any], split: Split, run: Run) -> dict[str, Any]:
    predictions = list(method.predict(split.val, run))
    index = {name: i for i, name in enumerate(split.dataset.classes)}
    truth, said = [], []
    for sample, prediction in zip(split.val, predictions, strict=True):
        boxes = [r.box_xyxy for r in regions_of(read_truth(sample))] if sample.is_defect else []
        labels = np.full(len(boxes), index.get(sample.label, 0))
        truth.append(TrueBoxes(np.array(boxes, np.float64).reshape(-1, 4), labels))
        found = prediction.boxes or Boxes.none()
        named = np.array([index[name] for name in found.labels], np.int64)
        said.append(PredictedBoxes(found.xyxy.astype(np.float64), found.scores, named))
    boxes_found = box_metrics(truth, said, class_names=split.dataset.classes)
    image = image_metrics(
        [p.score for p in predictions], [s.is_defect for s in split.val], threshold=None
    )
    loading = [float(row["loading_share"]) for row in run.results()]
    return {
        "map50": boxes_found.map50,
        "map50_95": boxes_found.map50_95,
        "auroc": image.auroc,
        "loading_share": statistics.median(loading),
    }


if __name__ == "__main__":
    try:
        main()
    except ToolkitError as error:
        sys.exit(f"yolo_variants: {error}")

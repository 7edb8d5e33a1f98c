"""Compare settings of a good-only scorer over several categories, on validation parts alone.

    python benchmarks/scorer_defaults.py mvtec/bottle mvtec/screw mvtec/transistor \
        --variants '{}' '{"whitening": "none"}' '{"image_size": 416}'

Each variant learns from the training part of protocol `official` and is judged twice: on the
validation parts of `--folds` folds of protocol `supervised` (real defects; these images also belong
to the test part of `official`), and on the good validation images of `official`, each beside two
copies with a synthetic defect. With `--light` the latter are judged a second time, each in a light
of its own. Prints one row per variant, the mean over the categories, and one
row per category with `--each`. Milliseconds are medians per image, decoding excluded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.config import settings_dict
from toolkit.data.images import read_rgb, read_truth
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan, make_split
from toolkit.methods.base import Predictor
from toolkit.methods.features.synthetic_defects import synthetic_defect
from toolkit.methods.registry import make_method
from toolkit.metrics.image import image_metrics
from toolkit.metrics.pixel import pixel_metrics
from toolkit.runs.environment import seed_everything
from toolkit.runs.run import Run

FIGURES = ("image AUROC", "pixel AUROC", "AUPRO")
MAP_SIZE = (512, 512)
Image = tuple[np.ndarray, np.ndarray]
"""RGB uint8 (H, W, 3) and its mask, bool (H, W)."""


@dataclass
class Category:
    """What one category is judged on."""

    name: str
    split: Any
    parts: dict[str, list[Image]]


def main() -> None:
    """Train every variant on every category, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", type=Path, help="folders of the categories")
    parser.add_argument("--method", default="patchcore")
    parser.add_argument("--variants", nargs="+", default=["{}"], help="settings as JSON objects")
    parser.add_argument("--folds", type=int, default=2, help="folds whose validation parts judge")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--light", type=float, nargs=2, metavar=("FROM", "TO"), help="factors")
    parser.add_argument("--each", action="store_true", help="one row per category too")
    options = parser.parse_args()
    categories = [
        open_category(path, folds=options.folds, seed=options.seed, light=options.light)
        for path in options.data
    ]
    heads = [f"{part}: {figure}" for part in categories[0].parts for figure in FIGURES]
    print(f"| variant | {' | '.join(heads)} | ms |\n|---{'|---' * (len(heads) + 1)}|", flush=True)
    for text in options.variants:
        rows = [_judge(options.method, json.loads(text), one, options.seed) for one in categories]
        if options.each:
            for one, row in zip(categories, rows, strict=True):
                _print(f"{text} {one.name}", row)
        _print(f"{text} mean", [statistics.fmean(column) for column in zip(*rows, strict=True)])


def _print(name: str, row: list[float]) -> None:
    print(f"| {name} | {' | '.join(f'{v:.3f}' for v in row[:-1])} | {row[-1]:.0f} |", flush=True)


def open_category(
    path: Path, *, folds: int, seed: int, light: tuple[float, float] | None = None
) -> Category:
    """Read what a category is judged on; see the options."""
    dataset = load_dataset(path)
    official = make_split(dataset, protocol="official")
    plan = make_plan(dataset)
    validation = [s for fold in range(folds) for s in plan.fold(dataset, fold).val]
    real = [(read_rgb(s.image), read_truth(s)) for s in validation]
    rng = np.random.default_rng(seed)
    good = [read_rgb(s.image) for s in official.val]
    synthetic = [(image, np.zeros(image.shape[:2], np.bool_)) for image in good]
    for _ in range(2):
        for i, image in enumerate(good):
            synthetic.append(synthetic_defect(image, good[(i + 1) % len(good)], rng))
    parts = {"real": real, "synthetic": synthetic}
    if light:
        factors = rng.uniform(*light, len(synthetic))
        parts["light"] = [
            (cv2.convertScaleAbs(image, alpha=factor), mask)
            for (image, mask), factor in zip(synthetic, factors, strict=True)
        ]
    if not real:
        del parts["real"]
    return Category(dataset.name, official, parts)


def _judge(method: str, settings: dict[str, Any], category: Category, seed: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        made = make_method(method, settings, source="--variants")
        run = Run.create(
            Path(folder), method=method, settings=settings_dict(made.settings), split={}, data={},
            seed=seed,
        )  # fmt: skip
        seed_everything(seed)
        made.fit(category.split, run)
        predictor = made.load(run)
        seconds: list[float] = []
        figures = [f for p in category.parts.values() for f in figures_of(predictor, p, seconds)]
    return [*figures, 1e3 * statistics.median(seconds)]


def figures_of(predictor: Predictor, images: list[Image], seconds: list[float]) -> list[float]:
    """Return the `FIGURES` of a predictor on images, and add the seconds of each prediction."""
    scores, maps = [], []
    for image, _ in images:
        started = time.perf_counter()
        (prediction,) = predictor.predict([image])
        seconds.append(time.perf_counter() - started)
        scores.append(prediction.score)
        maps.append(prediction.anomaly_map)
    pairs = _Pairs(maps, [mask for _, mask in images])
    found = pixel_metrics(pairs, limits=(0.3,))
    is_defect = np.array([mask.any() for _, mask in images])
    image_auroc = image_metrics(np.array(scores), is_defect).auroc
    return [float(v) for v in (image_auroc, found.auroc, found.aupro[0.3])]  # type: ignore[arg-type]


@dataclass
class _Pairs:
    """Maps and masks at one size, which costs less and changes the figures little."""

    maps: list[Any]
    masks: list[np.ndarray]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for anomaly_map, mask in zip(self.maps, self.masks, strict=True):
            small = cv2.resize(mask.view(np.uint8), MAP_SIZE, interpolation=cv2.INTER_NEAREST)
            yield cv2.resize(anomaly_map, MAP_SIZE), small > 0


if __name__ == "__main__":
    main()

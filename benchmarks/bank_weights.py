"""Do the weights of PatchCore's patches pay? (`MemoryBank.weighted`)

    python benchmarks/bank_weights.py mvtec/bottle mvtec/screw mvtec/transistor --shares 0 0.5 1

Each seed trains PatchCore once per category, as `scorer_defaults.py` does, and judges it on the
same validation parts with the weights multiplied: a share of 0 is plain PatchCore, 0.5 is the
default. Prints means over the seeds per category, and over all.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from scorer_defaults import FIGURES, Category, figures_of, open_category

from toolkit.config import settings_dict
from toolkit.methods.features.predictor import ScorerPredictor
from toolkit.methods.registry import make_method
from toolkit.methods.scorers.depths import DepthBanks
from toolkit.methods.scorers.memory_bank import WEIGHT, MemoryBank
from toolkit.runs.environment import seed_everything
from toolkit.runs.run import Run


def main() -> None:
    """Train, judge with each share of the weights, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", type=Path, help="folders of the categories")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.0, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    categories = [open_category(path, folds=2, seed=0) for path in options.data]
    heads = [f"{part}: {figure}" for part in categories[0].parts for figure in FIGURES]
    print(f"| share of the weights | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|", flush=True)
    means: dict[float, list[list[float]]] = {share: [] for share in options.shares}
    for category in categories:
        rows: dict[float, list[list[float]]] = {share: [] for share in options.shares}
        for seed in range(options.seeds):
            predictor = _trained(category, seed)
            for share in options.shares:
                judged = _with_share(predictor, share)
                rows[share].append(
                    [f for part in category.parts.values() for f in figures_of(judged, part, [])]
                )
        for share, found in rows.items():
            means[share].append(_print(f"{share:g} {category.name}", found))
    for share, found in means.items():
        mean = [statistics.fmean(column) for column in zip(*found, strict=True)]
        _print(f"{share:g} mean", [mean])


def _trained(category: Category, seed: int) -> ScorerPredictor:
    with tempfile.TemporaryDirectory() as folder:
        made = make_method("patchcore", {}, source="defaults")
        run = Run.create(
            Path(folder), method="patchcore", settings=settings_dict(made.settings), split={},
            data={}, seed=seed,
        )  # fmt: skip
        seed_everything(seed)
        made.fit(category.split, run)
        predictor = made.load(run)
    assert isinstance(predictor, ScorerPredictor)
    return predictor


def _with_share(predictor: ScorerPredictor, share: float) -> ScorerPredictor:
    banks = predictor.head
    assert isinstance(banks, DepthBanks)
    depths = []
    for one in banks.depths:
        bank = one.bank
        assert bank.weights is not None
        scaled = MemoryBank(
            bank.features, bank.whitening, owners=bank.owners, weights=bank.weights * share / WEIGHT
        )
        depths.append(replace(one, bank=scaled))
    head = DepthBanks(depths, banks.grid_hw)
    return ScorerPredictor(predictor.extractor, head, predictor.settings)


def _print(name: str, rows: list[list[float]]) -> list[float]:
    mean = [statistics.fmean(column) for column in zip(*rows, strict=True)]
    spread = np.std(rows, axis=0)
    cells = [
        f"{m:.3f} ± {s:.3f}" if len(rows) > 1 else f"{m:.3f}"
        for m, s in zip(mean, spread, strict=True)
    ]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return mean


if __name__ == "__main__":
    main()

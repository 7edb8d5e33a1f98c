"""What calibrated thresholds are worth.

    python benchmarks/calibration.py simulate [RUNS…] --plot docs/images/calibration.svg
    python benchmarks/calibration.py table RUNS… [--cross-fit 5] [--max-false-alarms 0.05]
    python benchmarks/calibration.py rules RUNS… [--cross-fit 5]

`simulate`: 2,000 calibrations each of made scores, and of the good scores of runs (drawn with
replacement): the share that keeps its promise, and the plot of how careful they are. `table`: each
entry of a folder of runs calibrated, escapes and overkill on its test images with intervals; all
folds of an entry together. `rules`: F1 of good-only runs at thresholds that other rules choose.

`--cross-fit N`: the good training images are scored by N models that lack them. Entries that
learned from labels, or whose fits would take longer than `--max-fit-seconds`, are calibrated with
the good images of their validation parts.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.data.types import Dataset
from toolkit.decisions.calibration import Threshold, false_alarm_threshold
from toolkit.decisions.costs import cheapest_threshold
from toolkit.decisions.cross_fit import cross_fit
from toolkit.decisions.thresholds import Tested, validation_thresholds, wrong_decisions
from toolkit.leaderboards.collect import collect
from toolkit.leaderboards.rows import entry_name, group_folds
from toolkit.metrics.image import decision_metrics, flagged, image_metrics
from toolkit.metrics.threshold import f1_threshold
from toolkit.runs.evaluate import choose_threshold, dataset_of
from toolkit.runs.run import Run
from toolkit.runs.scored_predictions import load_scored_predictions

N_CALIBRATIONS = 2000
CONFIDENCE = 0.95
DEFECT_RATES = (0.5, 0.75)
PROMISES = ((59, 0.05), (299, 0.01), (1000, 0.01), (1000, 0.05))
SIZES = (59, 80, 100, 150, 200, 299, 450, 700, 1000)

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
Tail = Callable[[np.ndarray], np.ndarray]
SHAPES: dict[str, tuple[Draw, Tail]] = {
    "normal": (
        lambda rng, size: rng.standard_normal(size),
        lambda t: np.array([0.5 * math.erfc(one / math.sqrt(2)) for one in t]),
    ),
    "heavy tail": (
        lambda rng, size: rng.pareto(1.0, size),
        lambda t: np.where(t <= 0, 1.0, 1 / (1 + np.maximum(t, 0))),
    ),
    "ties": (
        lambda rng, size: rng.geometric(0.1, size).astype(np.float64) - 1,
        lambda t: 0.9 ** np.maximum(np.ceil(t), 0),
    ),
}


def main() -> None:
    """Parse the options, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, call in (("simulate", simulate), ("table", table), ("rules", rules)):
        one = commands.add_parser(name)
        one.add_argument("runs", type=Path, nargs="*" if name == "simulate" else "+")
        one.add_argument("--cross-fit", type=int, default=5 if name != "table" else 0)
        one.add_argument("--max-fit-seconds", type=float, default=600)
        one.add_argument("--max-false-alarms", type=float, default=0.05)
        one.add_argument("--plot", type=Path)
        one.set_defaults(call=call)
    options = parser.parse_args()
    options.call(options)


def entries(places: Sequence[Path]) -> list[tuple[str, list[Run], Dataset]]:
    """Return name, folds and data of each entry and seed."""
    datasets: dict[str, Dataset] = {}
    found = []
    for folds in group_folds([run for run in collect(places) if run.finished]):
        root = folds[0].record["data"]["root"]
        if root not in datasets:
            datasets[root] = dataset_of(folds[0])
        found.append((entry_name(folds[0]), folds, datasets[root]))
    return sorted(found, key=lambda one: (one[2].name, one[0]))


def good_scores(run: Run, dataset: Dataset, folds: int) -> np.ndarray:
    """Return cross-fitted scores of the good training images, and those of validation."""
    val = load_scored_predictions(run, dataset, "val")
    return np.concatenate([cross_fit(run, dataset, folds=folds).scores, val.scores[~val.is_defect]])


def simulate(options: argparse.Namespace) -> None:
    """Print the share of calibrations that keep the promise; plot how careful they are."""
    shapes = dict(SHAPES)
    for _, folds, dataset in entries(options.runs):
        scores = np.sort(good_scores(folds[0], dataset, options.cross_fit))
        shapes[f"{folds[0].method} on {dataset.name}"] = (
            lambda rng, size, s=scores: rng.choice(s, size),
            lambda t, s=scores: 1 - np.searchsorted(s, t, side="left") / len(s),
        )
    heads = [f"{n:,} images, {100 * rate:.0f} %" for n, rate in PROMISES]
    print(f"| scores | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    for name, shape in shapes.items():
        cells = []
        for n, rate in PROMISES:
            rates = _true_rates(shape, n, rate)
            cells.append(f"{(rates <= rate).mean():.3f} ({100 * rates.mean():.2f} %)")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if options.plot:
        _plot(shapes, options.plot)


def _true_rates(shape: tuple[Draw, Tail], n: int, rate: float) -> np.ndarray:
    draw, tail = shape
    values = [
        false_alarm_threshold(row, max_false_alarms=rate, confidence=CONFIDENCE).value
        for row in draw(np.random.default_rng(n), (N_CALIBRATIONS, n))
    ]
    # Rounding must not count a rate of exactly the promise as one above it.
    return np.round(tail(np.array(values)), 12)


def _plot(shapes: dict[str, tuple[Draw, Tail]], path: Path) -> None:
    from matplotlib.figure import Figure

    rate = 0.05
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    marks = "osD^vPX*<>"
    for mark, (name, shape) in zip(marks, shapes.items(), strict=False):
        found = [_true_rates(shape, n, rate) for n in SIZES]
        style = {"marker": mark, "markersize": 4, "linewidth": 1.2, "label": name}
        left.plot(SIZES, [(one <= rate).mean() for one in found], **style)
        right.plot(SIZES, [100 * one.mean() for one in found], **style)
    left.axhline(CONFIDENCE, color="black", linestyle="--", linewidth=1)
    left.set_title("calibrations that keep a promise of 5 %", fontsize=10)
    left.set_ylim(0.93, 1.002)
    left.text(SIZES[-1], CONFIDENCE - 0.001, "stated: 0.95", ha="right", va="top", fontsize=8)
    right.axhline(100 * rate, color="black", linestyle="--", linewidth=1)
    right.text(SIZES[0], 100 * rate + 0.05, "promised", fontsize=8)
    right.set_title("good products flagged on average, %", fontsize=10)
    right.set_ylim(0, 5.6)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks([59, 100, 299, 1000], ["59", "100", "299", "1,000"])
        axes.minorticks_off()
        axes.set_xlabel("good calibration images")
        axes.grid(alpha=0.25)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def table(options: argparse.Namespace) -> None:
    """Print escapes and overkill of each entry at its calibrated threshold."""
    print(
        "| data | method | good images | promise | escapes | overkill | F1 | at the run's own "
        "threshold | best F1 |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, folds, dataset in entries(options.runs):
        cheap = folds[0].metadata["fit_seconds"] * options.cross_fit <= options.max_fit_seconds
        label_free = folds[0].metadata["labels"]["kind"] == "none"
        if options.cross_fit and label_free and cheap and not folds[0].record["inputs"]:
            thresholds = [
                false_alarm_threshold(
                    good_scores(run, dataset, options.cross_fit),
                    max_false_alarms=options.max_false_alarms,
                    confidence=CONFIDENCE,
                )
                for run in folds
            ]
            source = "cross-fit"
        else:
            thresholds = list(
                validation_thresholds(
                    folds, dataset, max_false_alarms=options.max_false_alarms, confidence=CONFIDENCE
                )
            )
            source = "validation"
        found = wrong_decisions(folds, dataset, thresholds)
        own, best = _f1(folds, dataset)
        weakest = found.weakest
        print(
            f"| {dataset.name} | {name} | {weakest.n_good} {source} | "
            f"{100 * weakest.promised_false_alarms:.0f} % | {_counts(found)} | {found.f1:.3f} | "
            f"{own:.3f} | {best:.3f} |",
            flush=True,
        )


def _counts(found: Tested) -> str:
    (low_e, high_e), (low_o, high_o) = found.intervals()
    return (
        f"{found.escapes} of {found.n_defect} ({100 * low_e:.1f}–{100 * high_e:.1f} %) | "
        f"{found.overkill} of {found.n_good} ({100 * low_o:.1f}–{100 * high_o:.1f} %)"
    )


def _f1(folds: Sequence[Run], dataset: Dataset) -> tuple[float, float]:
    """Return F1 at the runs' own thresholds, and the best F1 of their rankings, on test images.

    Scores of several folds are not ranked together: each fold's best threshold is its own.
    """
    counts = {"own": np.zeros(3), "best": np.zeros(3)}
    for run in folds:
        part = load_scored_predictions(run, dataset, "test")
        best = image_metrics(part.scores, part.is_defect).f1_max_threshold
        for name, threshold in (("own", choose_threshold(run, dataset)), ("best", best)):
            found = decision_metrics(flagged(part.scores, threshold), part.is_defect)
            counts[name] += [found.tp, found.fp, found.fn]
    own, best_f1 = (2 * c[0] / max(2 * c[0] + c[1] + c[2], 1) for c in counts.values())
    return float(own), float(best_f1)


def rules(options: argparse.Namespace) -> None:
    """Print F1 on test images at thresholds that rules choose from good images alone, or with ten
    defects (mean of 200 draws, which are left out of the test)."""
    quantiles = (0.01, 0.02, 0.05, 0.1, 0.2)
    heads = [f"val {100 * q:g} %" for q in (0.05, 0.1)]
    heads += [f"cross-fit {100 * q:g} %" for q in quantiles]
    heads += ["val mean + 1.64 sd", "promise 5 %"]
    heads += [f"ten defects, {100 * rate:g} % defective" for rate in DEFECT_RATES]
    print(f"| data | method | {' | '.join(heads)} | best |\n|" + "---|" * (len(heads) + 3))
    for name, folds, dataset in entries(options.runs):
        run = folds[0]
        val, test = (load_scored_predictions(run, dataset, part) for part in ("val", "test"))
        held_out = val.scores[~val.is_defect]
        good = good_scores(run, dataset, options.cross_fit)
        chosen = [_quantile(held_out, q) for q in (0.05, 0.1)]
        chosen += [_quantile(good, q) for q in quantiles]
        chosen += [held_out.mean() + 1.645 * held_out.std(ddof=1), _promise(good).value]
        figures = [_f1_at(test.scores, test.is_defect, value) for value in chosen]
        figures += [_ten_defects(good, test.scores, test.is_defect, rate) for rate in DEFECT_RATES]
        best = image_metrics(test.scores, test.is_defect).f1_max
        cells = " | ".join(f"{one:.3f}" for one in figures)
        print(f"| {dataset.name} | {name} | {cells} | {best:.3f} |", flush=True)


def _quantile(good: np.ndarray, rate: float) -> float:
    return f1_threshold(good, np.zeros(len(good), bool), fallback_rate=rate)


def _promise(good: np.ndarray) -> Threshold:
    return false_alarm_threshold(good, max_false_alarms=0.05, confidence=CONFIDENCE)


def _f1_at(scores: np.ndarray, is_defect: np.ndarray, threshold: float) -> float:
    found = decision_metrics(flagged(scores, threshold), is_defect).f1
    return found if isinstance(found, float) else 0.0


def _ten_defects(
    good: np.ndarray, scores: np.ndarray, is_defect: np.ndarray, defect_rate: float
) -> float:
    """Return the mean F1 at the threshold of the fewest wrong decisions, as of `--defects`."""
    rng = np.random.default_rng(0)
    places = np.flatnonzero(is_defect)
    figures = []
    for _ in range(200):
        ten = rng.choice(places, 10, replace=False)
        found = cheapest_threshold(
            good, scores[ten], cost_escape=1, cost_false_alarm=1, defect_rate=defect_rate
        )
        rest = np.setdiff1d(np.arange(len(scores)), ten)
        figures.append(_f1_at(scores[rest], is_defect[rest], found.value))
    return float(np.mean(figures))


if __name__ == "__main__":
    main()

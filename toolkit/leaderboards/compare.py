"""Comparison of two runs image by image: which images only one of them got right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.types import Dataset, Sample
from toolkit.errors import RunError, printable
from toolkit.leaderboards.rows import entry_name
from toolkit.metrics.bootstrap import Interval, MaybeInterval, image_difference_intervals
from toolkit.metrics.image import image_metrics
from toolkit.metrics.values import Undefined, Value
from toolkit.runs.evaluate import choose_threshold
from toolkit.runs.record import EVALUATED, check_record
from toolkit.runs.run import Run
from toolkit.runs.scored_predictions import ScoredPredictions, load_scored_predictions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_METRICS = ("auroc", "average_precision", "accuracy", "recall", "false_alarm_rate", "f1")
_GAP = 8


@dataclass(frozen=True)
class Disagreement:
    """One image that only one of two runs got right.

    Attributes:
        sample: the image.
        right: index of the run that was right, 0 or 1.
        scores: raw scores of both runs.
        thresholds: of both runs.
    """

    sample: Sample
    right: int
    scores: tuple[float, float]
    thresholds: tuple[float, float]


@dataclass(frozen=True)
class PairedMetric:
    """One metric of two runs.

    Attributes:
        values: of both runs.
        difference: the first minus the second, with its paired 95 % interval.
    """

    values: tuple[Value, Value]
    difference: float | None
    interval: MaybeInterval


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same test images.

    Attributes:
        names: of the runs.
        n_images: test images.
        both_right, both_wrong: at each run's own threshold.
        disagreements: images that only one got right, by type and id.
        metrics: by name.
    """

    names: tuple[str, str]
    n_images: int
    both_right: int
    both_wrong: int
    disagreements: tuple[Disagreement, ...]
    metrics: Mapping[str, PairedMetric]


def compare_runs(runs: tuple[Run, Run], dataset: Dataset) -> Comparison:
    """Compare two runs on the test images of their split.

    Raises:
        RunError: they were not made on the same split and fold, or one of them has no threshold,
            no predictions, or predictions that do not fit.
    """
    _check_comparable(runs)
    parts = [load_scored_predictions(run, dataset, "test") for run in runs]
    samples = parts[0].samples
    order = {s.id: i for i, s in enumerate(parts[1].samples)}
    theirs = np.array([order[s.id] for s in samples])
    scores = (parts[0].scores, parts[1].scores[theirs])
    thresholds = []
    for run in runs:
        threshold = choose_threshold(run, dataset)
        if threshold is None:
            raise RunError(f"{run.path}: no validation images, so no threshold; nothing to compare")
        thresholds.append(threshold)
    truth = parts[0].is_defect
    right = [(s >= t) == truth for s, t in zip(scores, thresholds, strict=True)]
    cases = [
        Disagreement(
            sample=samples[i],
            right=0 if right[0][i] else 1,
            scores=(float(scores[0][i]), float(scores[1][i])),
            thresholds=(thresholds[0], thresholds[1]),
        )
        for i in np.flatnonzero(right[0] != right[1])
    ]
    return Comparison(
        names=_names(runs),
        n_images=len(samples),
        both_right=int(np.sum(right[0] & right[1])),
        both_wrong=int(np.sum(~right[0] & ~right[1])),
        disagreements=tuple(sorted(cases, key=lambda c: (c.right, c.sample.label, c.sample.id))),
        metrics=_paired_metrics(scores, truth, thresholds, [s.label for s in samples]),
    )


def write_plots(
    comparison: Comparison, runs: tuple[Run, Run], dataset: Dataset, folder: Path
) -> tuple[Path, ...]:
    """Draw each image that only one run got right: the image with its truth, then both runs.

    Returns:
        The files, in the order of the disagreements.

    Raises:
        OutputError: the folder cannot be written.
    """
    from toolkit.data.images import read_rgb, read_truth
    from toolkit.inference.plot import overlay, save_picture
    from toolkit.prediction import Prediction

    wanted = {v.sample.id for v in comparison.disagreements}
    parts = [load_scored_predictions(run, dataset, "test") for run in runs]
    predictions = [
        {p.sample_id: p for p, _ in part.with_pixels() if p.sample_id in wanted} for part in parts
    ]
    ranges = [_heat_range(part) for part in parts]
    files = []
    for case in comparison.disagreements:
        image, truth = read_rgb(case.sample.image), read_truth(case.sample)
        panels = [
            overlay(image, predictions[i][case.sample.id], truth=truth, heat_range=ranges[i])
            for i in (0, 1)
        ]
        titles = [_caption(comparison, case, i) for i in (0, 1)]
        plain = overlay(image, Prediction(0.0), truth=truth)
        picture = _side_by_side([plain, *panels], [f"{case.sample.label}: truth", *titles])
        name = case.sample.id.replace("/", "-").rsplit(".", 1)[0]
        winner = comparison.names[case.right].replace("/", "-")
        file = folder / f"{winner}-right" / f"{name}.png"
        save_picture(picture, file)
        files.append(file)
    return tuple(files)


def comparison_text(comparison: Comparison) -> str:
    """Return the comparison in lines."""
    one, other = comparison.names
    n_other = sum(case.right for case in comparison.disagreements)
    n_one = len(comparison.disagreements) - n_other
    lines = [
        f"{one} against {other}: {comparison.n_images} test images; both right "
        f"{comparison.both_right}, both wrong {comparison.both_wrong}, only {one} right "
        f"{n_one}, only {other} right {n_other} "
        "(each at the threshold that its validation part chose)",
        "",
    ]
    for index, name in enumerate(comparison.names):
        for case in comparison.disagreements:
            if case.right == index:
                lines.append(f"only {name} right: {_disagreement_text(comparison, case)}")
    if comparison.disagreements:
        lines.append("")
    for name, metric in comparison.metrics.items():
        lines.append(f"{name}: {_metric_text(metric)}")
    return "\n".join(lines)


def _disagreement_text(comparison: Comparison, case: Disagreement) -> str:
    scores = [
        f"{comparison.names[i]} {case.scores[i]:.4g} "
        f"{'>=' if case.scores[i] >= case.thresholds[i] else '<'} {case.thresholds[i]:.4g}"
        for i in (0, 1)
    ]
    named = printable(f"{case.sample.id} ({case.sample.label})")
    return f"{named}: {', '.join(scores)}"


def _metric_text(metric: PairedMetric) -> str:
    values = [str(v) if isinstance(v, Undefined) else f"{v:.4f}" for v in metric.values]
    text = f"{values[0]} against {values[1]}"
    if metric.difference is None or not isinstance(metric.interval, Interval):
        return text
    significant = metric.interval.low > 0 or metric.interval.high < 0
    return (
        f"{text}, difference {metric.difference:+.4f}, 95 % {metric.interval.low:+.4f} to "
        f"{metric.interval.high:+.4f}: {'significant' if significant else 'not significant'}"
    )


def _paired_metrics(
    scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    truth: NDArray[np.bool_],
    thresholds: Sequence[float],
    types: Sequence[str],
) -> dict[str, PairedMetric]:
    intervals = image_difference_intervals(
        scores[0],
        scores[1],
        truth,
        threshold=thresholds[0],
        other_threshold=thresholds[1],
        defect_types=types,
    )
    both = [image_metrics(s, truth, threshold=t) for s, t in zip(scores, thresholds, strict=True)]
    metrics = {}
    for name in _METRICS:
        values = [
            getattr(m, name) if hasattr(m, name) else getattr(m.decisions, name) for m in both
        ]
        known = [v for v in values if not isinstance(v, Undefined)]
        metrics[name] = PairedMetric(
            values=(values[0], values[1]),
            difference=known[0] - known[1] if len(known) == 2 else None,
            interval=intervals[name],
        )
    return metrics


def _check_comparable(runs: tuple[Run, Run]) -> None:
    for run in runs:
        check_record(run, (*EVALUATED, "split.hash", "split.fold"))
    one, other = (run.record for run in runs)
    for what, key in (("data", "fingerprint"), ("split", "hash"), ("split", "fold")):
        if one[what][key] != other[what][key]:
            raise RunError(
                f"{runs[1].path}: made on another {key if key == 'fold' else what} than "
                f"{runs[0].path}; compare runs of the same split and fold"
            )
    if set(one["split"]["test"]) != set(other["split"]["test"]):
        raise RunError(f"{runs[1].path}: tested on other images than {runs[0].path}")


def _names(runs: tuple[Run, Run]) -> tuple[str, str]:
    entries = [entry_name(run) for run in runs]
    if entries[0] != entries[1]:
        return printable(entries[0]), printable(entries[1])
    one, other = (printable(f"{run.method}/{run.path.name}") for run in runs)
    return one, other


def _heat_range(part: ScoredPredictions) -> tuple[float, float] | None:
    """Return one range of colours for all images of a run, so that good images stay clear."""
    ends = [
        (float(p.anomaly_map.min()), float(p.anomaly_map.max()))
        for p, _ in part.with_pixels()
        if p.anomaly_map is not None
    ]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None


def _caption(comparison: Comparison, case: Disagreement, i: int) -> str:
    decision = "defect" if case.scores[i] >= case.thresholds[i] else "good"
    mark = "right" if case.right == i else "wrong"
    return (
        f"{comparison.names[i]}: {decision} ({mark}), {case.scores[i]:.3g} at "
        f"{case.thresholds[i]:.3g}"
    )


def _side_by_side(
    panels: Sequence[NDArray[np.uint8]], captions: Sequence[str]
) -> NDArray[np.uint8]:
    import cv2

    height, width = panels[0].shape[:2]
    scale = max(0.4, width / 900)
    bar = round(34 * scale)
    columns = []
    for panel, caption in zip(panels, captions, strict=True):
        head = np.full((bar, width, 3), 255, np.uint8)
        (long, _), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 0.7 * scale, 1)
        fitting = 0.7 * scale * min(1.0, (width - 2 * _GAP) / max(long, 1))
        font, place = cv2.FONT_HERSHEY_SIMPLEX, (_GAP, round(bar * 0.7))
        cv2.putText(head, caption, place, font, fitting, (0, 0, 0), 1, cv2.LINE_AA)
        columns += [np.vstack([head, panel]), np.full((bar + height, _GAP, 3), 255, np.uint8)]
    return np.hstack(columns[:-1])

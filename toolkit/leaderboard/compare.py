"""Two runs image by image: which images did one get right and the other wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.types import Dataset, Sample
from toolkit.errors import RunError
from toolkit.metrics.bootstrap import Interval, MaybeInterval, image_difference_intervals
from toolkit.metrics.image import image_metrics
from toolkit.metrics.values import Undefined, Value
from toolkit.runs.run import Run
from toolkit.runs.scored_predictions import Judged, judged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.prediction import Prediction

_FIGURES = ("auroc", "average_precision", "accuracy", "recall", "false_alarm_rate", "f1")
_GAP = 8


@dataclass(frozen=True)
class Verdict:
    """One image that two runs judged differently.

    Attributes:
        sample: the image.
        right: place of the run that was right, 0 or 1.
        scores: raw scores of both runs.
        thresholds: of both runs.
    """

    sample: Sample
    right: int
    scores: tuple[float, float]
    thresholds: tuple[float, float]


@dataclass(frozen=True)
class Figure:
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
        names: what the runs are called.
        n_images: test images.
        both_right, both_wrong: at each run's own threshold.
        verdicts: images that only one got right, by type and id.
        figures: by name.
    """

    names: tuple[str, str]
    n_images: int
    both_right: int
    both_wrong: int
    verdicts: tuple[Verdict, ...]
    figures: Mapping[str, Figure]


def compare_runs(runs: tuple[Run, Run], dataset: Dataset) -> Comparison:
    """Compare two runs on the test images of their split.

    Raises:
        RunError: they were not made on the same split and fold, or one of them has no threshold,
            no predictions, or predictions that do not fit.
    """
    _check_comparable(runs)
    from toolkit.runs.evaluate import threshold_of

    parts = (judged(runs[0], dataset, "test"), judged(runs[1], dataset, "test"))
    samples = parts[0].samples
    order = {s.id: i for i, s in enumerate(parts[1].samples)}
    theirs = np.array([order[s.id] for s in samples])
    scores = (parts[0].scores, parts[1].scores[theirs])
    thresholds = []
    for run in runs:
        threshold = threshold_of(run, dataset)
        if threshold is None:
            raise RunError(f"{run.path}: no validation images, so no threshold; nothing to compare")
        thresholds.append(threshold)
    truth = parts[0].is_defect
    right = [(s >= t) == truth for s, t in zip(scores, thresholds, strict=True)]
    verdicts = [
        Verdict(
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
        verdicts=tuple(sorted(verdicts, key=lambda v: (v.right, v.sample.label, v.sample.id))),
        figures=_figures(scores, truth, thresholds, [s.label for s in samples]),
    )


def write_pictures(
    comparison: Comparison, runs: tuple[Run, Run], dataset: Dataset, folder: Path
) -> tuple[Path, ...]:
    """Draw each image that only one run got right: the image with its truth, then both runs.

    Returns:
        The files, in the order of the verdicts.

    Raises:
        OutputError: the folder cannot be written.
    """
    from toolkit.data.images import read_rgb, read_truth
    from toolkit.inference.plot import overlay, save_picture

    wanted = {v.sample.id for v in comparison.verdicts}
    said = [_said(judged(run, dataset, "test"), wanted) for run in runs]
    ranges = [_heat_range(judged(run, dataset, "test")) for run in runs]
    files = []
    for verdict in comparison.verdicts:
        image, truth = read_rgb(verdict.sample.image), read_truth(verdict.sample)
        panels = [
            overlay(image, said[i][verdict.sample.id], truth=truth, heat_range=ranges[i])
            for i in (0, 1)
        ]
        titles = [_caption(comparison, verdict, i) for i in (0, 1)]
        plain = overlay(image, _nothing(verdict.sample), truth=truth)
        picture = _side_by_side([plain, *panels], [f"{verdict.sample.label}: truth", *titles])
        name = verdict.sample.id.replace("/", "-").rsplit(".", 1)[0]
        file = folder / f"{comparison.names[verdict.right].replace('/', '-')}-right" / f"{name}.png"
        save_picture(picture, file)
        files.append(file)
    return tuple(files)


def comparison_text(comparison: Comparison) -> str:
    """Say the comparison in lines."""
    one, other = comparison.names
    lines = [
        f"{one} against {other}: {comparison.n_images} test images; both right "
        f"{comparison.both_right}, both wrong {comparison.both_wrong}, only {one} right "
        f"{_count(comparison.verdicts, 0)}, only {other} right {_count(comparison.verdicts, 1)} "
        "(each at the threshold that its validation part chose)",
        "",
    ]
    for place, name in enumerate(comparison.names):
        for verdict in comparison.verdicts:
            if verdict.right == place:
                lines.append(f"only {name} right: {_verdict_text(comparison, verdict)}")
    if comparison.verdicts:
        lines.append("")
    for name, figure in comparison.figures.items():
        lines.append(f"{name}: {_figure_text(figure)}")
    return "\n".join(lines)


def _count(verdicts: Sequence[Verdict], place: int) -> int:
    return sum(v.right == place for v in verdicts)


def _verdict_text(comparison: Comparison, verdict: Verdict) -> str:
    said = [
        f"{comparison.names[i]} {verdict.scores[i]:.4g} "
        f"{'>=' if verdict.scores[i] >= verdict.thresholds[i] else '<'} {verdict.thresholds[i]:.4g}"
        for i in (0, 1)
    ]
    return f"{verdict.sample.id} ({verdict.sample.label}): {', '.join(said)}"


def _figure_text(figure: Figure) -> str:
    shown = [str(v) if isinstance(v, Undefined) else f"{v:.4f}" for v in figure.values]
    text = f"{shown[0]} against {shown[1]}"
    if figure.difference is None or not isinstance(figure.interval, Interval):
        return text
    real = figure.interval.low > 0 or figure.interval.high < 0
    return (
        f"{text}, difference {figure.difference:+.4f}, 95 % {figure.interval.low:+.4f} to "
        f"{figure.interval.high:+.4f}: {'real' if real else 'not real'}"
    )


def _figures(
    scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    truth: NDArray[np.bool_],
    thresholds: Sequence[float],
    types: Sequence[str],
) -> dict[str, Figure]:
    intervals = image_difference_intervals(
        scores[0],
        scores[1],
        truth,
        threshold=thresholds[0],
        other_threshold=thresholds[1],
        defect_types=types,
    )
    both = [image_metrics(s, truth, threshold=t) for s, t in zip(scores, thresholds, strict=True)]
    figures = {}
    for name in _FIGURES:
        values = [
            getattr(m, name) if hasattr(m, name) else getattr(m.decisions, name) for m in both
        ]
        known = [v for v in values if not isinstance(v, Undefined)]
        figures[name] = Figure(
            values=(values[0], values[1]),
            difference=known[0] - known[1] if len(known) == 2 else None,
            interval=intervals[name],
        )
    return figures


def _check_comparable(runs: tuple[Run, Run]) -> None:
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
    entries = [str(run.metadata.get("entry", run.method)) for run in runs]
    if entries[0] != entries[1]:
        return entries[0], entries[1]
    return (f"{runs[0].method}/{runs[0].path.name}", f"{runs[1].method}/{runs[1].path.name}")


def _said(part: Judged, wanted: set[str]) -> dict[str, Prediction]:
    return {p.sample_id: p for p, _ in part.pixels() if p.sample_id in wanted}


def _heat_range(part: Judged) -> tuple[float, float] | None:
    """One range of colours for all images of a run, or a good image would glow."""
    ends = [
        (float(p.anomaly_map.min()), float(p.anomaly_map.max()))
        for p, _ in part.pixels()
        if p.anomaly_map is not None
    ]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None


def _nothing(sample: Sample) -> Prediction:
    from toolkit.prediction import Prediction

    return Prediction(sample_id=sample.id, score=0.0)


def _caption(comparison: Comparison, verdict: Verdict, i: int) -> str:
    said = "defect" if verdict.scores[i] >= verdict.thresholds[i] else "good"
    mark = "right" if verdict.right == i else "wrong"
    return (
        f"{comparison.names[i]}: {said} ({mark}), {verdict.scores[i]:.3g} at "
        f"{verdict.thresholds[i]:.3g}"
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

"""Which method for my line? Chosen on validation parts among the methods that meet its needs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolkit.data.types import Dataset
from toolkit.decisions.calibration import images_needed
from toolkit.decisions.thresholds import Tested, validation_thresholds, wrong_decisions
from toolkit.errors import ConfigError, DataError, RunError, did_you_mean
from toolkit.inference.pipeline import predict_samples
from toolkit.leaderboards.benchmark_files import PooledMetrics
from toolkit.leaderboards.board import leaderboard
from toolkit.leaderboards.columns import column, value_at
from toolkit.leaderboards.differences import differences
from toolkit.leaderboards.model import Difference, Row
from toolkit.leaderboards.rows import EntryMetrics
from toolkit.methods.registry import load_method
from toolkit.metrics.values import Undefined, Value
from toolkit.progress import track
from toolkit.runs.environment import environment
from toolkit.runs.evaluate import dataset_of
from toolkit.runs.run import Run

OUTPUTS = {
    "boxes": "map50",
    "masks": "mask_iou",
    "classes": "class_balanced_accuracy",
    "maps": "aupro",
}
"""What a line may need beside OK or NOK, and the column that judges it."""
_TIMED_IMAGES = 20


@dataclass(frozen=True)
class Needs:
    """What a line asks of a method.

    Attributes:
        outputs: of `OUTPUTS`; the first one decides by which figure methods are compared.
        max_latency: milliseconds per image, median.
        max_memory: MB, at the peak of training and prediction.
        max_labels: labelled defects that training may use.
        max_false_alarms: share of good products that may be flagged; it sets the threshold.
        confidence: of this promise.
        tolerance: a cheaper method may be this much worse on validation, where this is not
            significant.
    """

    outputs: tuple[str, ...] = ()
    max_latency: float | None = None
    max_memory: float | None = None
    max_labels: int | None = None
    max_false_alarms: float = 0.01
    confidence: float = 0.95
    tolerance: float = 0.02

    @property
    def figure(self) -> str:
        """Name of the column by which methods are compared."""
        return OUTPUTS[self.outputs[0]] if self.outputs else "auroc"


@dataclass(frozen=True)
class Candidate:
    """One method of the comparison.

    Attributes:
        name: its row in the leaderboard.
        refused: why it does not meet the needs, one phrase each; empty if it does.
        val, test: the figure on the validation and on the test parts.
        labels: training defects, and what was labelled of them.
        latency: milliseconds per image, median, on this machine.
        memory: MB.
        fit_seconds: training time, all folds.
        tested: escapes and overkill on the test parts at the calibrated threshold; None where the
            validation parts hold fewer than two good images.
    """

    name: str
    refused: tuple[str, ...]
    val: Value
    test: Value
    labels: tuple[int, str]
    latency: Value
    memory: Value
    fit_seconds: Value
    tested: Tested | None

    @property
    def cost(self) -> tuple[float, float, float]:
        """What it costs: labels first, then latency, then training time."""
        numbers = (self.latency, self.fit_seconds)
        slow, long = (float("inf") if isinstance(n, Undefined) else n for n in numbers)
        return self.labels[0], slow, long


@dataclass(frozen=True)
class Recommendation:
    """The answer of `recommend`.

    Attributes:
        data: name of the data set.
        needs: what was asked for.
        candidates: all methods, the best on validation first, those that are refused last.
        chosen: the recommended one; None if none meets the needs.
        best: the allowed one with the best figure on validation; None if there is none.
        val_differences, test_differences: of the candidates, by their places in `candidates`, with
            95 % intervals of the paired bootstrap.
        val_images, test_images: on which the figures rest.
        folds: number of folds.
    """

    data: str
    needs: Needs
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    best: Candidate | None
    val_differences: tuple[Difference, ...]
    test_differences: tuple[Difference, ...]
    val_images: int
    test_images: int
    folds: int

    def difference(self, first: Candidate, second: Candidate, *, part: str) -> Difference | None:
        """Return the difference of two candidates, the first minus the second; None if untested."""
        places = self.candidates.index(first), self.candidates.index(second)
        found = self.val_differences if part == "val" else self.test_differences
        for one in found:
            if (one.first, one.second) == places:
                return one
            if (one.second, one.first) == places:
                return Difference(*places, value=-one.value, low=-one.high, high=-one.low)
        return None

    def __str__(self) -> str:
        from toolkit.decisions.recommend_page import recommendation_text

        return recommendation_text(self)


def recommend(
    runs: Run | Path | str | Iterable[Run | Path | str],
    *,
    needs: Sequence[str] = (),
    max_latency: float | None = None,
    max_memory: float | None = None,
    max_labels: int | None = None,
    max_false_alarms: float = 0.01,
    confidence: float = 0.95,
    dataset: Dataset | None = None,
    measure: bool = False,
) -> Recommendation:
    """Say which method of a comparison fits a line.

    Of the methods that meet the needs, the one with the best figure on the validation parts; or a
    cheaper one (fewer labels, then lower latency) that is not significantly worse there and at most
    0.02 behind. The test parts choose nothing, they show what to expect.

    Example:
        >>> found = toolkit.recommend("runs/bottle", max_latency=120, max_labels=10)
        ... # doctest: +SKIP
        >>> found.chosen.name  # doctest: +SKIP
        'patchcore'

    Args:
        runs: runs of one data set and split, or folders of them.
        needs: outputs beside OK or NOK: `boxes`, `masks`, `classes`, `maps`.
        max_latency: milliseconds per image, median, from file to prediction.
        max_memory: MB, at the peak of training and prediction.
        max_labels: labelled defects that training may use.
        max_false_alarms: share of good products that may be flagged; the threshold for escapes and
            overkill is calibrated for it with the good validation images.
        confidence: of this promise.
        dataset: the data of the runs; read from where they were made on it if None.
        measure: measure the latency again, also where the runs were made on this machine.

    Raises:
        ConfigError: an unknown need, or a limit below 0.
        DataError: a rate outside 0 to 1, or the data is not there.
        RunError: no usable runs, runs of several data sets or splits, or validation parts that
            cannot rank methods, as those of protocol `official`.
    """
    asked = _checked(
        Needs(tuple(needs), max_latency, max_memory, max_labels, max_false_alarms, confidence)
    )
    board = leaderboard(runs, sort=asked.figure)
    if len(board.groups) != 1:
        named = [f"{g.data} (protocol {g.protocol}, split {g.split_hash})" for g in board.groups]
        found = ", ".join(named) or "; ".join(board.left_out) or "none"
        raise RunError(f"recommend: needs runs of one data set and split, found: {found}")
    group = board.groups[0]
    entries = [_seeds(row) for row in group.rows]
    dataset = dataset or dataset_of(entries[0][0][0])
    pooled = PooledMetrics(dataset)
    val = [
        tuple(EntryMetrics(tuple(seed), pooled.of(seed, "val")) for seed in seeds)
        for seeds in track(entries, "validation parts", len(entries))
    ]
    pairs = zip(group.names, group.rows, entries, val, strict=True)
    made = [
        _candidate(name, row, seeds, figures, asked, dataset, measure=measure)
        for name, row, seeds, figures in pairs
    ]
    if all(isinstance(one.val, Undefined) for one in made):
        reason = next(one.val.reason for one in made if isinstance(one.val, Undefined))
        raise RunError(
            f"recommend: no method has {column(asked.figure).heading} on its validation part "
            f"({reason}); use runs of protocol supervised, whose validation parts hold defects"
        )
    order = sorted(range(len(made)), key=lambda i: (bool(made[i].refused), _falling(made[i].val)))
    candidates = tuple(made[i] for i in order)
    found_val = differences([val[i] for i in order], asked.figure)
    place = {old: new for new, old in enumerate(order)}
    recommendation = Recommendation(
        data=group.data,
        needs=asked,
        candidates=candidates,
        chosen=None,
        best=None,
        val_differences=found_val,
        test_differences=tuple(
            replace(one, first=place[one.first], second=place[one.second])
            for one in group.differences
        ),
        val_images=sum(len(run.record["split"]["val"]) for run in entries[0][0]),
        test_images=group.test_images,
        folds=len(group.folds),
    )
    allowed = [one for one in candidates if not one.refused]
    if not allowed:
        return recommendation
    close = [one for one in allowed if _as_good(recommendation, one, allowed[0])]
    return replace(recommendation, best=allowed[0], chosen=min(close, key=lambda one: one.cost))


def _checked(needs: Needs) -> Needs:
    for name in needs.outputs:
        if name not in OUTPUTS:
            raise ConfigError(f"--needs {name}: unknown{did_you_mean(name, OUTPUTS)}")
    for name in ("max_latency", "max_memory", "max_labels"):
        limit = getattr(needs, name)
        if limit is not None and not limit >= 0:
            raise ConfigError(f"{name}={limit}: must be 0 or more")
    images_needed(needs.max_false_alarms, needs.confidence)  # rates outside 0 to 1 fail here
    return needs


def _seeds(row: Row) -> list[list[Run]]:
    """Return the runs of a row, the folds of each seed together."""
    found: dict[int, list[Run]] = defaultdict(list)
    for path in row.runs:
        run = Run.open(path)
        found[run.seed].append(run)
    return list(found.values())


def _candidate(
    name: str,
    row: Row,
    seeds: Sequence[Sequence[Run]],
    val: Sequence[EntryMetrics],
    needs: Needs,
    dataset: Dataset,
    *,
    measure: bool,
) -> Candidate:
    runs = seeds[0]
    path = column(needs.figure).path
    values = [value_at(one.metrics, path) for one in val]
    missing = [value for value in values if isinstance(value, Undefined)]
    known = [value for value in values if not isinstance(value, Undefined)]
    latency = row.values["latency"]
    if measure or not _made_here(runs[0]):
        latency = _latency(runs[0], dataset)
    try:
        thresholds = validation_thresholds(
            runs, dataset, max_false_alarms=needs.max_false_alarms, confidence=needs.confidence
        )
        tested = wrong_decisions(runs, dataset, thresholds)
    except DataError:
        tested = None
    labels = [run.metadata["labels"] for run in runs]
    one = Candidate(
        name=name,
        refused=(),
        val=missing[0] if missing else statistics.fmean(known),
        test=row.values[needs.figure],
        labels=(max(label["train"] for label in labels), labels[0]["kind"]),
        latency=latency,
        memory=row.values["memory"],
        fit_seconds=row.values["fit_seconds"],
        tested=tested,
    )
    return replace(one, refused=tuple(_refusals(one, row, needs)))


def _refusals(one: Candidate, row: Row, needs: Needs) -> list[str]:
    found = [
        f"gives no {name}"
        for name in needs.outputs
        if isinstance(row.values[OUTPUTS[name]], Undefined)
    ]
    if not found and isinstance(one.val, Undefined):
        found.append(f"has no figure on validation: {one.val.reason}")
    limits: tuple[tuple[str, float | None, Value, str], ...] = (
        ("latency", needs.max_latency, one.latency, "ms"),
        ("memory", needs.max_memory, one.memory, "MB"),
        ("labels", needs.max_labels, float(one.labels[0]), "labelled defects"),
    )
    for name, limit, value, unit in limits:
        if limit is not None and isinstance(value, Undefined):
            found.append(f"{name}: {value.reason}")
        elif limit is not None and not isinstance(value, Undefined) and value > limit:
            found.append(f"{value:.0f} {unit}, {limit:g} allowed")
    return found


def _as_good(found: Recommendation, one: Candidate, best: Candidate) -> bool:
    """Whether a candidate is the best one, or close to it and not significantly worse."""
    if one is best or one.val == best.val:
        return True
    difference = found.difference(best, one, part="val")
    return (
        difference is not None
        and not difference.significant
        and difference.value <= found.needs.tolerance
    )


def _made_here(run: Run) -> bool:
    here: dict[str, Any] = environment()
    there = run.record.get("environment", {})
    return all(here[key] == there.get(key) for key in ("processor", "cores"))


def _latency(run: Run, dataset: Dataset) -> Value:
    """Measure the median milliseconds per image on this machine, without the first image."""
    samples = [dataset.by_id[name] for name in run.record["split"]["test"]][: _TIMED_IMAGES + 1]
    predictions = predict_samples(load_method(run).load(run), samples)
    seconds = [p.seconds for p in track(predictions, f"{run.path.name}: latency", len(samples))]
    known = [value for value in seconds[1:] if value is not None]
    return statistics.median(known) * 1000 if known else Undefined("one image to measure with")


def _falling(value: Value) -> float:
    return float("inf") if isinstance(value, Undefined) else -value

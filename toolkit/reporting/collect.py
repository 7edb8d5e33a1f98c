"""Contents of a report: the rows of the leaderboard with the stored predictions of their runs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.layouts import load_dataset
from toolkit.data.types import GOOD
from toolkit.errors import RunError, ToolkitError
from toolkit.inference.plot import validation_heat_range
from toolkit.leaderboards.board import Board, leaderboard
from toolkit.leaderboards.collect import collect
from toolkit.leaderboards.model import Group, Row
from toolkit.leaderboards.overview import Overview
from toolkit.progress import Progress, progress
from toolkit.reporting.curves import sample_map
from toolkit.reporting.images import heat_map, mask_path, select_boxes, to_base64
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.prediction import Prediction

# What a damaged file of a run can raise besides a ToolkitError.
_DAMAGE = (OSError, ValueError, TypeError, LookupError, AttributeError, csv.Error)


@dataclass(frozen=True)
class RunResults:
    """Stored test results of one run.

    Attributes:
        run: the run.
        threshold: image-level threshold; None where the run has none.
        labels: true label by sample id, in the order of the split.
        predictions: by sample id, the JSON values that the gallery draws.
        sizes: (width, height) of the predicted masks by sample id.
        heat_range: anomaly-map values of no and of full colour; None without anomaly maps.
        map_values: for each anomaly map, some of its values and its maximum.
        confusion: class names and counts, rows are true classes; None without classes.
        epochs: rows of `results.csv`.
    """

    run: Run
    threshold: float | None
    labels: Mapping[str, str]
    predictions: Mapping[str, dict[str, Any]]
    sizes: Mapping[str, tuple[int, int]]
    heat_range: tuple[float, float] | None
    map_values: tuple[NDArray[np.float32], ...]
    confusion: tuple[tuple[str, ...], NDArray[np.int64]] | None
    epochs: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class MethodResults:
    """One row of the leaderboard and the results of its folds.

    Attributes:
        name: name of the row, unique within its group.
        row: its metrics.
        runs: one per fold; of several seeds, those of the first.
    """

    name: str
    row: Row
    runs: tuple[RunResults, ...]

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """True label of each test image, by sample id."""
        return {key: label for one in self.runs for key, label in one.labels.items()}

    @cached_property
    def predictions(self) -> Mapping[str, dict[str, Any]]:
        """Prediction for each test image, by sample id, in the order of `labels`."""
        return {key: one.predictions[key] for one in self.runs for key in one.labels}

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Image-level scores in the order of `labels`, float64 (n,)."""
        return np.array([p["score"] for p in self.predictions.values()], np.float64)

    @cached_property
    def is_defect(self) -> NDArray[np.bool_]:
        """Truth in the order of `labels`, bool (n,)."""
        return np.array([label != GOOD for label in self.labels.values()], np.bool_)

    @cached_property
    def flagged(self) -> tuple[bool | None, ...]:
        """Whether each score reaches its fold's threshold; None where there is no threshold."""
        return tuple(p.get("flagged") for p in self.predictions.values())


@dataclass(frozen=True)
class GroupResults:
    """Methods that may be compared.

    Attributes:
        board: the group of the leaderboard; `methods` are its rows.
        methods: best first.
    """

    board: Group
    methods: tuple[MethodResults, ...]


@dataclass(frozen=True)
class ReportContent:
    """Everything that the page displays besides images.

    Attributes:
        groups: groups of the leaderboard.
        left_out: one line for each run that is left out.
        folders: names of the data sets by their folders on this machine.
        overviews: tables over several data sets, with published results.
    """

    groups: tuple[GroupResults, ...]
    left_out: tuple[str, ...]
    folders: Mapping[str, str]
    overviews: tuple[Overview, ...] = ()


def collect_report(places: Sequence[Path], *, data: Path | None = None) -> ReportContent:
    """Read the finished runs at or below the given places, and their predictions.

    Args:
        places: runs, or folders of runs.
        data: folder of the data set, if it was moved since the runs were made.

    Raises:
        RunError: a place does not exist, or there is no run at all.
        DataError: there is no data set at `data`.
    """
    found = collect(places)
    runs, left_out = list(found), list(found.left_out)
    if data is not None:
        _relocate(runs, data)
    results: dict[Path, RunResults] = {}
    with progress("predictions", sum(len(run.record["split"]["test"]) for run in runs)) as bar:
        while True:
            board, runs = _build_board(runs, left_out)
            broken = _read_rows(board, runs, results, bar)
            if not broken:
                break
            # Ranks and pooled metrics must not count what is left out.
            left_out += broken.values()
            runs = [run for run in runs if run.path not in broken]
    groups = tuple(
        GroupResults(
            group,
            tuple(
                MethodResults(name, row, tuple(results[run.path] for run in _first_seed(row, runs)))
                for name, row in zip(_unique(group.names), group.rows, strict=True)
            ),
        )
        for group in board.groups
    )
    folders = {str(run.record["data"]["root"]): str(run.record["data"]["name"]) for run in found}
    named = tuple(dict.fromkeys([*left_out, *board.left_out]))
    return ReportContent(groups, named, folders, board.overviews)


def read_results(run: Run, bar: Progress | None = None) -> RunResults:
    """Read the stored test results of a run, masks and anomaly maps included.

    Args:
        run: a finished run.
        bar: advanced by one per image.

    Raises:
        RunError: a file is missing or damaged.
    """
    try:
        return _read_results(run, bar or Progress())
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{run.path}: damaged ({reason}); run the method again") from error


def _read_results(run: Run, bar: Progress) -> RunResults:
    metrics = run.metrics()
    json.dumps(metrics, allow_nan=False)
    labels = dict(zip(metrics["images"]["ids"], metrics["images"]["types"], strict=True))
    if not labels:
        raise RunError(f"{run.path}: its test part is empty; choose another split")
    if set(labels) != set(run.record["split"]["test"]):
        raise RunError(f"{run.path}: its test images are not those of its split; run it again")
    threshold = _threshold(run, metrics)
    heat_range = validation_heat_range(run)
    predictions, sizes, map_values = {}, {}, []
    for prediction in read_predictions(run.predictions, "test"):
        key, heat = str(prediction.sample_id), prediction.anomaly_map
        if heat is not None:
            if heat.ndim != 2 or not heat.size or not np.isfinite(heat).all():
                raise RunError(
                    f"{run.path}: the anomaly map of {key} is not an array of finite numbers; "
                    "run the method again"
                )
            heat_range = heat_range or (float(heat.min()), float(heat.max()))
            map_values.append(sample_map(heat))
        if prediction.mask is not None:
            sizes[key] = (prediction.mask.shape[1], prediction.mask.shape[0])
        predictions[key] = _gallery_record(prediction, threshold, heat_range)
        bar.advance()
    confusion = None
    if isinstance(classes := metrics.get("classification"), Mapping):
        confusion = tuple(classes["classes"]), np.array(classes["confusion"], np.int64)
    return RunResults(
        run=run,
        threshold=threshold,
        labels={key: labels[key] for key in run.record["split"]["test"]},
        predictions=predictions,
        sizes=sizes,
        heat_range=heat_range if map_values else None,
        map_values=tuple(map_values),
        confusion=confusion,
        epochs=tuple(run.results()),
    )


def _gallery_record(
    prediction: Prediction, threshold: float | None, heat_range: tuple[float, float] | None
) -> dict[str, Any]:
    record: dict[str, Any] = {"score": prediction.score, "threshold": threshold}
    if threshold is not None:
        record["flagged"] = prediction.score >= threshold
    if probabilities := prediction.class_probabilities:
        best = max(probabilities, key=probabilities.__getitem__)
        record["pred_class"] = [best, round(probabilities[best], 4)]
    if prediction.boxes is not None:
        record["boxes"] = select_boxes(prediction.boxes, threshold)
    if prediction.mask is not None:
        record["mask"] = mask_path(prediction.mask)
    if prediction.anomaly_map is not None and heat_range is not None:
        record["heat"] = to_base64(heat_map(prediction.anomaly_map, heat_range))
        record["heat_range"] = [float(f"{v:.4g}") for v in heat_range]
    return record


def _threshold(run: Run, metrics: Mapping[str, Any]) -> float | None:
    stored = metrics.get("thresholds")
    if isinstance(stored, list) and len(stored) == 1:
        (limit,) = stored
        if limit is None or (isinstance(limit, int | float) and math.isfinite(limit)):
            return None if limit is None else float(limit)
    raise RunError(
        f"{run.path}/metrics.json: damaged (thresholds); fix it with: toolkit evaluate {run.path}"
    )


def _build_board(runs: Sequence[Run], left_out: list[str]) -> tuple[Board, list[Run]]:
    """Build the leaderboard without the runs that stop it; these are added to `left_out`."""
    try:
        return leaderboard(runs, published=True), list(runs)
    except (ToolkitError, *_DAMAGE):
        usable = []
        for run in runs:
            try:
                leaderboard([run])
            except (ToolkitError, *_DAMAGE) as error:
                reason = " ".join(str(error).split())
                named = str(run.path) in reason
                left_out.append(reason if named else f"{run.path}: damaged ({reason})")
            else:
                usable.append(run)
        if len(usable) == len(runs):
            raise
        return leaderboard(usable, published=True), usable


def _read_rows(
    board: Board, runs: Sequence[Run], results: dict[Path, RunResults], bar: Progress
) -> dict[Path, str]:
    """Read the runs of all rows into `results`; return the error of each damaged run."""
    broken: dict[Path, str] = {}
    for group in board.groups:
        expected: set[str] | None = None
        for row in group.rows:
            displayed = _first_seed(row, runs)
            for run in displayed:
                try:
                    if run.path not in results:
                        results[run.path] = read_results(run, bar)
                except ToolkitError as error:
                    broken[run.path] = str(error)
            if any(run.path in broken for run in displayed):
                continue
            ids = {key for run in displayed for key in results[run.path].labels}
            expected = expected or ids
            if ids != expected:
                path = displayed[0].path
                broken[path] = f"{path}: its test images are not those of its split; run it again"
    return broken


def _first_seed(row: Row, runs: Sequence[Run]) -> list[Run]:
    by_path = {run.path: run for run in runs}
    return [by_path[path] for path in row.runs if by_path[path].seed == row.seed]


def _relocate(runs: Sequence[Run], data: Path) -> None:
    """Point the runs of this data set to its folder, in memory alone."""
    dataset = load_dataset(data)
    for run in runs:
        if run.record["data"]["fingerprint"] == dataset.fingerprint:
            run.record["data"].update(root=str(dataset.root), layout=dataset.layout)


def _unique(names: Sequence[str]) -> list[str]:
    """Number equal names: runs of one name may lie in two folders."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[:i].count(name) + 1})"
        for i, name in enumerate(names)
    ]

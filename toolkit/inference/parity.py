"""How far inference engines, precisions and exports are from torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from toolkit.data.images import read_rgb
from toolkit.errors import ToolkitError
from toolkit.runs.evaluate import choose_threshold, dataset_of, evaluate
from toolkit.runs.prediction_io import read_predictions, write_predictions
from toolkit.runs.run import Run
from toolkit.runs.scored_predictions import load_scored_predictions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.types import Dataset
    from toolkit.methods.base import Engine, Graph, Predictor
    from toolkit.prediction import Prediction

Precision = Literal["float32", "bfloat16", "int8"]

TOLERANCE = 1e-3
"""Largest difference from torch that passes: of a network's output, as a share of its largest
value; of an image score, as a share of the score, or absolute below 1."""

SCORE_TOLERANCE = 0.1
"""Of bfloat16 and int8, and of float32 from a run that was evaluated in bfloat16: largest
difference of a validation score, as a share of their range.

Without defects that is the range of good scores, in which small differences change the order."""
METRIC_TOLERANCE = 0.005
"""Of bfloat16 and int8: what each validation metric may lose."""

_METRICS = (("image", "auroc"), ("boxes", "map50"), ("pixel", "auroc"), ("masks", "iou"))
_PARITY_IMAGES = 4


@dataclass(frozen=True)
class Gate:
    """How an engine or an export compares with its run on the validation part.

    Attributes:
        images: number of images.
        difference: largest difference of a score: as a share of the score or absolute below 1
            between float32 and float32, as a share of the range of all scores otherwise.
        tolerance: the largest that passes.
        decisions: images that are decided otherwise.
        metrics: by name, those of the run and of the other.
        lost: by how much the worst of them is lower; None in float32, which is what the others are
            measured by: a metric changes by the order of nearly equal scores alone.
    """

    images: int
    difference: float
    tolerance: float
    decisions: int
    metrics: dict[str, tuple[float, float]]
    lost: float | None

    @property
    def passed(self) -> bool:
        """Whether it may be used."""
        return self.difference <= self.tolerance and (self.lost or 0.0) <= METRIC_TOLERANCE

    def __str__(self) -> str:
        """Return the comparison in one line."""
        metrics = ", ".join(f"{k} {a:.4f} -> {b:.4f}" for k, (a, b) in self.metrics.items())
        return (
            f"{self.images} validation images: scores differ by {self.difference:.2g} (allowed "
            f"{self.tolerance:.2g}), {self.decisions} decided otherwise"
            + (f"; {metrics}" if metrics else "")
            + (f" (may lose {METRIC_TOLERANCE})" if metrics and self.lost is not None else "")
        )


@dataclass(frozen=True)
class Parity:
    """How engines are compared with torch.

    In float32 on four images of the run, output by output; in bfloat16 on its whole validation
    part, as exports are; a network that many runs share as it says itself.

    Attributes:
        graph: the network.
        predictor: of the run, in torch.
        run: with stored predictions of its validation part; it need not be finished.
        dataset: its data; read from where the run was made on it if None.
        part: name of the network among `Predictor.parts`; empty for that of `Predictor.graph`.
    """

    graph: Graph
    predictor: Predictor | None = None
    run: Run | None = None
    dataset: Dataset | None = None
    part: str = ""

    @property
    def owner(self) -> str:
        """What messages name."""
        owner = "the network" if self.run is None else str(self.run.path)
        return f"{owner} ({self.part})" if self.part else owner

    def in_torch(self, *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Run the network in torch."""
        import torch

        with torch.inference_mode():
            return [one.numpy() for one in self.graph.module(*map(torch.from_numpy, inputs))]

    def measure(self, engines: Mapping[str, Callable[[], Engine]]) -> dict[str, Any]:
        """Return the record of engines up to the first that agrees, and of what was compared.

        Args:
            engines: by name and precision, such as `openvino float32`; each opens when called.
        """
        shared = self.graph.shared
        if shared is not None:
            inputs, tolerance, checked = list(shared.inputs()), shared.tolerance, shared.checked
            expected = [self.in_torch(*one) for one in inputs]

            def of_shared(engine: Engine) -> float:
                return shared.distance([engine(*one) for one in inputs], expected)

            apart: Callable[[Engine], float] = of_shared
        else:
            apart, checked = self._on_images()
            tolerance = TOLERANCE
        records: dict[str, dict[str, Any]] = {}
        for name, opened in engines.items():
            try:
                if shared is None and name.endswith("bfloat16"):
                    records[name] = self._bfloat16(opened())
                else:
                    difference = apart(opened())
                    records[name] = {
                        "passed": bool(difference <= tolerance),
                        "difference": difference if np.isfinite(difference) else 1e9,
                    }
            except Exception as error:  # engines have errors of their own; any means: not this one
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                records[name] = {"passed": False, "error": reason}
            if records[name]["passed"]:
                break
        return {"checked": checked, "tolerance": tolerance, "engines": records}

    def _on_images(self) -> tuple[Callable[[Engine], float], str]:
        """Return what measures an engine's largest difference on a few images, and on which."""
        assert self.predictor is not None
        assert self.run is not None
        predictor = self.predictor
        images, checked = _parity_images(self.run)

        @cache  # bfloat16, which is compared otherwise, may be all that is tried
        def in_torch() -> tuple[list[NDArray[np.uint8]], list[Any], list[float]]:
            inputs = self._inputs(predictor, images)
            scores = [one.score for one in predictor.predict(images)]
            return inputs, [self.in_torch(one) for one in inputs], scores

        def apart(engine: Engine) -> float:
            inputs, expected, scores = in_torch()
            found = [engine(one) for one in inputs]
            predicted = predictor.with_engine(engine).predict(images)
            differences = [_difference(a, b) for a, b in zip(found, expected, strict=True)]
            differences += [
                abs(a.score - b) / max(1.0, abs(b)) for a, b in zip(predicted, scores, strict=True)
            ]
            return float(np.max(differences))  # not `max`, which would pass over NaN

        return apart, checked

    def _bfloat16(self, engine: Engine) -> dict[str, Any]:
        """Return the record of an engine in bfloat16, judged on the whole validation part."""
        assert self.predictor is not None
        assert self.run is not None
        dataset = self.dataset or dataset_of(self.run)
        gate = compare_validation(self.run, dataset, self.predictor.with_engine(engine), "bfloat16")
        if not gate.images:
            return {"passed": False, "error": "there is no validation image to compare on"}
        finite = np.isfinite(gate.difference)
        return {
            "passed": gate.passed,
            "difference": gate.difference if finite else 1e9,
            "compared": str(gate),
        }

    def _inputs(
        self, predictor: Predictor, images: Sequence[NDArray[np.uint8]]
    ) -> list[NDArray[np.uint8]]:
        """Return the network's inputs for images."""
        inputs: list[NDArray[np.uint8]] = []

        def recorded(image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
            inputs.append(image.copy())
            return self.in_torch(image)

        predictor.with_engine(recorded).predict(images)
        return inputs


def _difference(
    found: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]
) -> float:
    """Return the largest difference of an output, as a share of that output's largest value."""
    return float(
        np.max([np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-9)
                for a, b in zip(found, expected, strict=True)])
    )  # fmt: skip


def _parity_images(run: Run) -> tuple[list[NDArray[np.uint8]], str]:
    """Return images to compare on: validation images, or noise where these are out of reach."""
    root, images = Path(run.record["data"]["root"]), []
    try:
        for prediction in islice(read_predictions(run.predictions, "val"), _PARITY_IMAGES):
            images.append(read_rgb(root / prediction.sample_id))
    except (ToolkitError, OSError):
        images = []
    if images:
        return images, f"{len(images)} validation images"
    draw = np.random.default_rng(0)
    noise = [draw.integers(0, 256, (320, 320, 3), np.uint8) for _ in range(_PARITY_IMAGES)]
    return noise, f"{len(noise)} images of noise"


def compare_validation(
    run: Run, dataset: Dataset, predictor: Predictor, precision: Precision
) -> Gate:
    """Predict the validation part and compare with the stored predictions of the run.

    Args:
        run: with stored predictions of its validation part.
        dataset: its data.
        predictor: an engine or an export of the run.
        precision: what it computes in.
    """
    stored = load_scored_predictions(run, dataset, "val")
    found: list[float] = []

    def predictions() -> Iterator[Prediction]:
        for sample in stored.samples:
            (one,) = predictor.predict([read_rgb(sample.image)])
            found.append(one.score)
            yield replace(one, sample_id=sample.id)

    with tempfile.TemporaryDirectory() as name:
        again = Run(Path(name) / run.path.name, run.record)
        write_predictions(again.predictions, "val", predictions())
        ours, theirs = evaluate(run, dataset, part="val"), evaluate(again, dataset, part="val")
    scores, wanted = np.array(found), stored.scores
    # Scores of a run that was evaluated in bfloat16 are only so exact themselves, and where they
    # rank a few images better than float32 does, that is luck.
    exact = precision == "float32" and not str(run.metadata.get("engine")).endswith("bfloat16")
    if exact:
        apart, tolerance = np.abs(scores - wanted) / np.maximum(1, np.abs(wanted)), TOLERANCE
    else:
        scale = max(float(np.ptp(wanted)) if len(wanted) else 0.0, 1e-9)
        apart, tolerance = np.abs(scores - wanted) / scale, SCORE_TOLERANCE
    metrics = {}
    for part, metric in _METRICS:
        one, other = (m.get(part, {}).get(metric) for m in (ours, theirs))
        if isinstance(one, float) and isinstance(other, float):
            metrics[f"{part} {metric}"] = (one, other)
    threshold = choose_threshold(run, dataset)
    flipped = (
        0 if threshold is None else int(((scores >= threshold) != (wanted >= threshold)).sum())
    )
    losses = [one - other for one, other in metrics.values()]
    return Gate(
        images=len(found),
        difference=float(np.max(apart, initial=0.0)),
        tolerance=tolerance,
        decisions=flipped,
        metrics=metrics,
        lost=None if precision == "float32" else max(losses, default=0.0),
    )

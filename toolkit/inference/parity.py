"""How far inference engines are from torch, and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.images import read_rgb
from toolkit.errors import ToolkitError
from toolkit.runs.prediction_io import read_predictions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.methods.base import Engine, Graph, Predictor
    from toolkit.runs.run import Run

TOLERANCE = 1e-3
"""Largest difference from torch that passes: of a network's output, as a share of its largest
value; of an image score, as a share of the score, or absolute below 1."""

_PARITY_IMAGES, _TIMED_CALLS, _TIMED_SECONDS = 4, 10, 2.0


@dataclass(frozen=True)
class Parity:
    """How engines are compared with torch: on the run's images, or as a shared network says."""

    graph: Graph
    predictor: Predictor | None = None
    run: Run | None = None

    @property
    def owner(self) -> str:
        return "the network" if self.run is None else str(self.run.path)

    def in_torch(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Run the network in torch."""
        import torch

        with torch.inference_mode():
            return [one.numpy() for one in self.graph.module(torch.from_numpy(image))]

    def measure(self, engines: Mapping[str, Callable[[], Engine]]) -> dict[str, Any]:
        """Return the record of each engine, of torch, and of what was compared."""
        shared, scores = self.graph.shared, list[float]()
        images: list[NDArray[np.uint8]] = []
        if shared is not None:
            seen, tolerance, checked = list(shared.inputs()), shared.tolerance, shared.checked
        else:
            assert self.predictor is not None
            assert self.run is not None
            images, checked = _parity_images(self.run)
            seen, tolerance = self._inputs(self.predictor, images), TOLERANCE
            scores = [one.score for one in self.predictor.predict(images)]
        expected, records = [self.in_torch(one) for one in seen], {}
        for name, opened in engines.items():
            try:
                engine = opened()
                found = [engine(one) for one in seen]
                if shared is not None:
                    ours, theirs = ([one[0] for one in outputs] for outputs in (found, expected))
                    apart = [shared.distance(ours, theirs)]
                else:
                    assert self.predictor is not None
                    predicted = self.predictor.with_engine(engine).predict(images)
                    apart = [_difference(a, b) for a, b in zip(found, expected, strict=True)]
                    apart += [
                        abs(a.score - b) / max(1.0, abs(b))
                        for a, b in zip(predicted, scores, strict=True)
                    ]
            except Exception as error:  # engines have errors of their own; any means: not this one
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                records[name] = {"passed": False, "error": reason, "seconds": None}
                continue
            # Not `max`, which would pass over what is not a number.
            difference = float(np.max(apart))
            records[name] = {
                "passed": bool(difference <= tolerance),
                "difference": difference if np.isfinite(difference) else 1e9,
                "seconds": _seconds(engine, seen[0]),
            }
        return {
            "checked": checked,
            "tolerance": tolerance,
            "engines": records,
            "torch_seconds": _seconds(self.in_torch, seen[0]),
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


def _seconds(engine: Callable[[NDArray[np.uint8]], Any], image: NDArray[np.uint8]) -> float:
    times = []
    for _ in range(_TIMED_CALLS):
        started = time.perf_counter()
        engine(image)
        times.append(time.perf_counter() - started)
        if sum(times) > _TIMED_SECONDS:
            break
    return statistics.median(times)


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

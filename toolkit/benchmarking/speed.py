"""Measure how fast finished runs predict, one after the other, with nothing beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.data.images import read_rgb
from toolkit.data.types import Dataset
from toolkit.errors import ToolkitError
from toolkit.files import read_json, write_json
from toolkit.inference.model import Model, load_model
from toolkit.inference.sources import SourceImage
from toolkit.runs.run import Run
from toolkit.runs.speed import SPEED, measured_speed
from toolkit.runtime.engines import default_threads
from toolkit.verification.checksums import update_checksums

_IMAGES, _WARM_UP = 50, 3
_SECONDS = 10.0  # of a slow method fewer images are predicted


@dataclass(frozen=True)
class _Times:
    seconds: list[float]
    decoding: list[float]


def measure_runs(
    runs: Sequence[Run], dataset: Dataset, *, engine: str, say: Callable[[str], None]
) -> list[ToolkitError]:
    """Measure each run that was not measured with this engine, and write it into its metrics.

    Args:
        runs: finished runs.
        dataset: their data; test images are predicted.
        engine: what networks run in; see `load_model`.
        say: receives one line per run.

    Returns:
        The error of each run that cannot be measured.
    """
    errors = []
    for run in runs:
        path = run.path / SPEED
        if path.is_file() and read_json(path).get("asked") == engine:
            continue
        try:
            model = load_model(run, engine=engine)
            names = run.record["split"]["test"] or run.record["split"]["val"]
            spread = [names[i * len(names) // _IMAGES] for i in range(_IMAGES)]
            times = _measure(model, [dataset.by_id[name].image for name in spread])
        except ToolkitError as error:
            errors.append(error)
            continue
        write_json(
            path,
            {
                "asked": engine,
                "engine": model.engine,
                "threads": default_threads(),
                "seconds": times.seconds,
                "decode_seconds": times.decoding,
            },
        )
        update_checksums(run.path, SPEED)
        speed = measured_speed([run])
        metrics = run.metrics()
        run.finish({**metrics, "speed": {**metrics.get("speed", {}), **speed}})
        say(
            f"{run.method}/{run.path.name}: {speed['ms_per_image_median']:.1f} ms per image "
            f"({model.engine}, {len(times.seconds)} images)"
        )
    return errors


def _measure(model: Model, images: Sequence[Path]) -> _Times:
    started, times = time.perf_counter(), _Times([], [])
    for number, path in enumerate([*images[:_WARM_UP], *images]):
        before = time.perf_counter()
        pixels = read_rgb(path)
        decoded = time.perf_counter()
        model.results([(SourceImage(path.name, path), pixels)])
        ended = time.perf_counter()
        if number >= _WARM_UP:
            times.seconds.append(ended - decoded)
            times.decoding.append(decoded - before)
        if times.seconds and ended - started > _SECONDS:
            break
    return times

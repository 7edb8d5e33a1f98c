"""A model that takes a millisecond, calibrated, and images of known decisions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.leaderboards.standin import Grey
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.decisions.calibrate import calibrate
from toolkit.inference.model import Model, load_model
from toolkit.line.answers import NamedModel
from toolkit.line.station import Station, StationOptions
from toolkit.methods import registry
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training

Picture = Callable[[float], bytes]


def png(level: float, *, seed: int = 0, size: int = 24) -> bytes:
    """Return a PNG of a mean grey (to one 576th) whose bytes differ from seed to seed."""
    array = np.full(size * size, int(level), np.uint8)
    array[: round((level - int(level)) * array.size)] += 1
    shift = np.random.default_rng(seed).integers(-3, 4, array.size // 2)
    array = array.astype(np.int64)
    array[: len(shift)] += shift
    array[-len(shift) :] -= shift  # the mean stays
    file = BytesIO()
    grey = array.clip(0, 255).astype(np.uint8).reshape(size, size)
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def grey_run(sample_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A finished run of the stand-in."""
    folder = tmp_path_factory.mktemp("line")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._BUILT_IN, "grey", f"{Grey.__module__}:Grey")
        patch.setenv("TOOLKIT_HOME", str(folder / "home"))
        dataset = load_dataset(sample_dir)
        split = make_plan(dataset, folds=3).fold(dataset, 0)
        task = TrainingTask("grey", "grey", device="cpu")
        yield run_training(task, split, runs=folder / "runs")


@pytest.fixture(scope="module")
def level(grey_run: Run) -> float:
    """The mean grey of good images: the further from it, the higher the score."""
    return float(json.loads((grey_run.weights / "state.json").read_text())["mean"])


@pytest.fixture(scope="module")
def card(grey_run: Run, level: float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its card: OK up to about 5 from the level, then REVIEW, NOK from about 8."""
    good = tmp_path_factory.mktemp("good")
    offsets = np.concatenate([np.linspace(-5, 5, 94), np.linspace(7, 8, 6)])
    for number, offset in enumerate(offsets):
        (good / f"{number:03d}.png").write_bytes(png(level + offset, seed=number))
    found = calibrate(load_model(grey_run), good, max_false_alarms=0.05, max_reviews=0.14)
    path = good.parent / "card.json"
    found.card.write(path)
    return path


@pytest.fixture(scope="module")
def model(grey_run: Run, card: Path) -> Model:
    """The loaded model with its card."""
    return load_model(grey_run, calibration=card)


@pytest.fixture(scope="module")
def named(model: Model) -> NamedModel:
    """The model with its name."""
    return NamedModel.of(model)


@pytest.fixture
def messages() -> list[str]:
    """What the line under test has reported."""
    return []


@pytest.fixture
def make_station(
    named: NamedModel, tmp_path: Path, messages: list[str]
) -> Iterator[Callable[..., Station]]:
    """Make lines, which are closed after the test."""
    made: list[Station] = []

    def make(*sinks: str, state: Path = tmp_path / "state", **options: float) -> Station:
        whole = StationOptions(sinks=sinks, heartbeat=0.1, **{"timeout": 5.0, **options})  # type: ignore[arg-type]
        made.append(Station(named, state, whole, say=messages.append))
        return made[-1]

    yield make
    for station in made:
        station.close()


def eventually(check: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is true."""
    import time

    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)

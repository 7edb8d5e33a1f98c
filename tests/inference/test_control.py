"""The masked control fills defects in, and tells what a score rests on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from tests.cli.command import run as command
from tests.data.test_shortcuts import darker, make
from toolkit.errors import ConfigError
from toolkit.inference import control
from toolkit.inference.control import fill_in, masked_control
from toolkit.prediction import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray


def test_fill_in_takes_the_donor_that_fits_and_its_light() -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(60, 180, (64, 64, 3), dtype=np.uint8)
    other = rng.integers(60, 180, (64, 64, 3), dtype=np.uint8)
    image = texture.copy()
    mask = np.zeros((64, 64), np.bool_)
    mask[20:40, 24:44] = True
    image[mask] = 0
    filled = fill_in(image, mask, [other, cv2.subtract(texture, (30, 30, 30, 0))])
    assert np.abs(filled.astype(int) - texture).max() <= 2
    assert (filled[~mask] == image[~mask]).mean() > 0.9


class _Scores:
    """Stands for a method: a function of the image."""

    def __init__(self, score: Callable[[NDArray[np.uint8]], float]) -> None:
        self._score = score

    def load(self, run: Any) -> _Scores:
        return self

    def predict(self, images: list[NDArray[np.uint8]]) -> list[Prediction]:
        return [Prediction(score=self._score(image)) for image in images]


def blackest(image: NDArray[np.uint8]) -> float:
    """The defect of these images is a black square."""
    return -float(cv2.blur(image, (5, 5)).min())


def light(image: NDArray[np.uint8]) -> float:
    return float(image[:4].mean())


@pytest.mark.parametrize(("score", "stays"), [(blackest, False), (light, True)])
def test_what_the_score_rests_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: Callable[..., float], stays: bool
) -> None:
    from tests.reporting.fake_runs import make_run

    def change(image: NDArray[np.uint8], is_bad: bool) -> NDArray[np.uint8]:
        return darker(image, is_bad) if stays else image

    data = make(tmp_path / "data", change)
    run = make_run(tmp_path / "runs", data)
    monkeypatch.setattr(control, "load_method", lambda run: _Scores(score))
    found = masked_control([run])
    assert found.plain[0] > 0.9
    assert (found.masked[0] > 0.85) == stays
    assert "% of the score above chance stays without the defect" in str(found)


def test_each_method_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.reporting.fake_runs import make_run

    data = make(tmp_path / "data", lambda image, is_bad: image)
    for entry in ("one", "other"):
        for fold in (0, 1):
            make_run(tmp_path / "runs", data, entry=entry, fold=fold)
    monkeypatch.setattr(control, "load_method", lambda run: _Scores(blackest))
    found = command("evaluate", tmp_path / "runs", "--control", "masked")
    heads = [line for line in found.stdout.splitlines() if "masked control" in line]
    assert [line.split(":")[0] for line in heads] == ["one on data", "other on data"]
    assert heads[0].split(":")[1] == heads[1].split(":")[1]


def test_unknown_control(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known: masked"):
        command("evaluate", tmp_path, "--control", "blurry")

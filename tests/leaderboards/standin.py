"""A method that takes milliseconds: how far an image's mean grey is from that of training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from toolkit.config import setting
from toolkit.data.images import read_rgb
from toolkit.data.splits import Split
from toolkit.errors import RunError
from toolkit.methods import registry
from toolkit.methods.base import Method, Predictor
from toolkit.prediction import Boxes, Prediction
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL = ("boxes", "mask", "map", "classes")


@dataclass(frozen=True)
class GreySettings:
    """Settings of the stand-in."""

    gives: tuple[str, ...] = setting(ALL, "outputs beside the score")
    fail: str = setting("", "where it fails: fit, predict, or nowhere")
    offset: float = setting(0.0, "added to each score")


class GreyPredictor(Predictor):
    """Predicts scores, and what else the settings ask for."""

    def __init__(self, settings: GreySettings, state: dict[str, Any]) -> None:
        self._settings, self._state = settings, state
        self._count = 0

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return one prediction per image; fails at the third where a test asks for it."""
        return [self._predict(image) for image in images]

    def _predict(self, image: NDArray[np.uint8]) -> Prediction:
        self._count += 1
        if self._count == 3 and Grey.interrupted_in == "predict":
            raise KeyboardInterrupt
        if self._count == 3 and self._settings.fail == "predict":
            raise RunError("grey: cannot predict; use another")
        grey = image.mean(axis=2)
        height, width = grey.shape
        classes, gives = self._state["classes"], self._settings.gives
        mask = np.zeros((height, width), np.bool_)
        mask[height // 4 : height // 2, width // 4 : width // 2] = True
        box = np.array([[width / 4, height / 4, width / 2, height / 2]], np.float32)
        share = 1 / (len(classes) + 1)
        return Prediction(
            score=abs(float(grey.mean()) - self._state["mean"]) + self._settings.offset,
            class_probabilities=dict.fromkeys(["good", *classes], share)
            if "classes" in gives
            else None,
            boxes=Boxes(box, np.array([0.5], np.float32), (classes[0],))
            if "boxes" in gives
            else None,
            mask=mask if "mask" in gives else None,
            anomaly_map=grey[::4, ::4].astype(np.float32) if "map" in gives else None,
        )


class Grey(Method[GreySettings]):
    """Distance of the mean grey from that of the training images."""

    name = "grey"
    Settings = GreySettings
    labels = "image"
    score_description = "distance of mean grey"
    inputs = ("prompt_run",)

    fits: ClassVar[list[str]] = []
    interrupted_in: ClassVar[str] = ""

    def fit(self, split: Split, run: Run) -> None:
        """Store the mean grey."""
        assert (run.path / "run.json").is_file()
        assert not run.finished
        if self.settings.fail == "fit":
            raise RunError("grey: cannot be fitted; use another")
        Grey.fits.append(run.path.name)
        run.update_metadata(weights="none", weights_source="there are none")
        greys = [float(read_rgb(s.image).mean()) for s in split.train]
        run.add_result({"epoch": 1, "mean": float(np.mean(greys))})
        (run.weights / "state.json").write_text(
            json.dumps({"mean": float(np.mean(greys)), "classes": split.dataset.classes})
        )

    def load(self, run: Run) -> GreyPredictor:
        """Read the mean grey."""
        return GreyPredictor(self.settings, json.loads((run.weights / "state.json").read_text()))

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """Return the number of training images."""
        return {"trained_on": len(split.train)}


@pytest.fixture
def grey(monkeypatch: pytest.MonkeyPatch) -> type[Grey]:
    """Register the stand-in, with no memory of earlier tests."""
    table = {**registry._BUILT_IN, "grey": f"{__name__}:Grey"}
    monkeypatch.setattr(registry, "_BUILT_IN", table)
    monkeypatch.setattr(Grey, "fits", [])
    monkeypatch.setattr(Grey, "interrupted_in", "")
    return Grey


def write_grid(folder: Path, methods: list[dict[str, Any]], **keys: Any) -> Path:
    """Write the method's config and a benchmark file; return the latter."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grey.yaml").write_text("method: grey\n")
    file = folder / "grid.yaml"
    entries = [{"config": str(folder / "grey.yaml"), **one} for one in methods]
    content = {"name": "small", "n_folds": 3, "folds": [0], **keys, "methods": entries}
    file.write_text(yaml.safe_dump(content))
    return file

"""A method that takes milliseconds: how far an image's mean grey is from that of training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from toolkit.config import setting
from toolkit.data.images import read_rgb
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import RunError
from toolkit.methods import registry
from toolkit.methods.base import Method
from toolkit.prediction import Boxes, Prediction
from toolkit.runs.run import Run

ALL = ("boxes", "mask", "map", "classes")


@dataclass(frozen=True)
class GreySettings:
    """Settings of the stand-in."""

    gives: tuple[str, ...] = setting(ALL, "what it says beside the score")
    fail: str = setting("", "where it meets wrong input: fit, predict, or nowhere")
    offset: float = setting(0.0, "added to each score")


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
        """Store the mean grey; goes on where it was stopped."""
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

    def predict(self, samples: Sequence[Sample], run: Run) -> Iterator[Prediction]:
        """Yield scores, and what else was asked for."""
        state = json.loads((run.weights / "state.json").read_text())
        for number, sample in enumerate(samples):
            if number == 2 and Grey.interrupted_in == "predict":
                raise KeyboardInterrupt
            if number == 2 and self.settings.fail == "predict":
                raise RunError("grey: cannot predict; use another")
            image = read_rgb(sample.image)
            grey = image.mean(axis=2)
            score = abs(float(grey.mean()) - state["mean"]) + self.settings.offset
            height, width = grey.shape
            classes, gives = state["classes"], self.settings.gives
            mask = np.zeros((height, width), np.bool_)
            mask[height // 4 : height // 2, width // 4 : width // 2] = True
            box = np.array([[width / 4, height / 4, width / 2, height / 2]], np.float32)
            share = 1 / (len(classes) + 1)
            yield Prediction(
                sample_id=sample.id,
                score=score,
                class_probabilities=dict.fromkeys(["good", *classes], share)
                if "classes" in gives
                else None,
                boxes=Boxes(box, np.array([0.5], np.float32), (classes[0],))
                if "boxes" in gives
                else None,
                mask=mask if "mask" in gives else None,
                anomaly_map=grey[::4, ::4].astype(np.float32) if "map" in gives else None,
            )

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """Say what was trained on."""
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
    content = {"name": "small", "split_folds": 3, "folds": [0], **keys, "methods": entries}
    file.write_text(yaml.safe_dump(content))
    return file

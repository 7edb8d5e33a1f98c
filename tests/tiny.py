"""Settings that train each method in about a second, and runs that all tests share."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import toolkit
from toolkit.runs.run import Run

_FEATURES: dict[str, Any] = {"weights": "none", "image_size": 64}
_YOLO: dict[str, Any] = {"weights": "none", "image_size": 64, "epochs": 1, "background_images": "2"}
SMALL: dict[str, dict[str, Any]] = {
    "classifier": {**_FEATURES, "network": "resnet18", "head_epochs": 1, "finetune_epochs": 1},
    "devnet": {**_FEATURES, "steps": 5, "synthetic_defects_count": 4},
    "feature-autoencoder": {**_FEATURES, "epochs": 1, "width": 16, "bottleneck": 4},
    "padim": {**_FEATURES, "n_features": 10},
    "patchcore": {**_FEATURES, "coreset_size": 50},
    "patchcore+": {**_FEATURES, "coreset_size": 50, "synthetic_defects_count": 4},
    "sam": {"weights": "none", "epochs": 0, "points_per_side": 2},
    "yolo": _YOLO,
    "yolo-world": {**_YOLO, "text_embeddings": "orthonormal"},
}


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder that all workers of one test session have in common."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


class TinyRuns:
    """Runs that are trained once per test session, whichever worker asks first.

    Tests may read them only: who changes a run copies its folder first.
    """

    def __init__(self, folder: Path, data: Path) -> None:
        self._folder = folder
        self._data = data

    def __call__(self, method: str, **settings: Any) -> Run:
        """Return the run of a method with `SMALL` settings and these changes."""
        values = {**SMALL[method], **settings}
        key = json.dumps([method, values], sort_keys=True)
        folder = self._folder / hashlib.sha256(key.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        done = folder / "done"
        with FileLock(folder / "lock"):
            if not done.is_file():
                run = toolkit.train(method, self._data, runs=folder, device="cpu", **values)
                done.write_text(str(run.path))
        return Run.open(Path(done.read_text()))

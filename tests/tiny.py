"""Settings that train each method in about a second, and runs that all tests share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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


def few_images(data: Path, target: Path) -> Path:
    """Copy five images of one defect type and the good ones, under their names; made once.

    SAM's encoder takes a second for each image and fold, and its report for each region.
    """
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            kind = min(path.name for path in (data / "ground_truth").iterdir())
            for name in ("train/good", "test/good", f"test/{kind}", f"ground_truth/{kind}"):
                (target / "made" / name).mkdir(parents=True)
                for file in sorted((data / name).iterdir())[:5]:
                    shutil.copy(file, target / "made" / name)
    return target / "made"


@contextmanager
def torch_in_float32() -> Iterator[None]:
    """Let SAM compute in float32 where the processor has bfloat16, for exact comparisons."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", dict)
        yield


class TinyRuns:
    """Runs that are trained once per test session, whichever worker asks first.

    Tests may read them only: who changes a run copies its folder first. Those of SAM know a part
    of the sample alone.
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
                data = self._data
                if method == "sam":
                    data = few_images(data, self._folder / "few")
                run = toolkit.train(method, data, runs=folder, device="cpu", **values)
                done.write_text(str(run.path))
        return Run.open(Path(done.read_text()))

    def prompted_sam(self) -> Run:
        """Return a run of SAM, evaluated in float32, that a PaDiM of the same images prompts."""
        folder = self._folder / "prompted"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not (folder / "sam/001/metrics.json").is_file():
                data = few_images(self._data, self._folder / "few")
                words: dict[str, Any] = {"runs": folder, "device": "cpu", "protocol": "supervised"}
                prompter = toolkit.train("padim", data, **words, **SMALL["padim"])
                with torch_in_float32():
                    toolkit.train("sam", data, prompt_run=prompter, **words, **SMALL["sam"])
        return Run.open(folder / "sam/001")

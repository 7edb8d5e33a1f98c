"""An exported folder predicts in an environment that has neither torch nor this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.cli.command import run as command
from tests.tiny import TinyRuns, shared_folder, torch_in_float32

pytestmark = pytest.mark.slow

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}
NEEDED = ("numpy", "opencv-python-headless", "pillow", *ENGINES.values())
for _engine in ("onnx", *ENGINES.values()):
    pytest.importorskip(_engine)

LARGEST_MB = 500


ALONE = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with what an exported folder needs; made once."""
    folder = shared_folder(tmp_path_factory) / "bare"
    found, log = folder / "bin/python", folder / "install.log"
    with FileLock(f"{folder}.lock"):
        if not log.is_file():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
            pip = [sys.executable, "-m", "pip", "--python", found, "--disable-pip-version-check"]
            done = subprocess.run(
                [*pip, "install", "-q", *NEEDED], capture_output=True, text=True, check=False
            )
            log.write_text(done.stderr.splitlines()[-1] if done.returncode else "")
    if reason := log.read_text():
        pytest.skip(f"packages cannot be had here: {reason}")
    return found


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, tiny_runs: TinyRuns
) -> Callable[[str, str], tuple[Path, Path]]:
    """Export the run of a method in a format once; return run and folder."""
    folder = tmp_path_factory.mktemp("exported")

    def export(method: str, form: str) -> tuple[Path, Path]:
        run = (tiny_runs.prompted_sam() if method == "sam" else tiny_runs(method)).path
        out = folder / f"{method}-{form}"
        if not out.exists():
            command("export", run, "--to", form, "--out", out)
        return run, out

    return export


def test_the_environment_has_no_torch_and_is_small(python: Path) -> None:
    known = subprocess.run(
        [python, "-c", "import importlib.util as u; print(u.find_spec('torch'), "
         "u.find_spec('toolkit'))"],
        capture_output=True, text=True, check=True, cwd="/", env=ALONE,
    )  # fmt: skip
    assert known.stdout.split() == ["None", "None"]
    (packages,) = python.parent.parent.glob("lib/python*/site-packages")
    sizes = {
        place.name: sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) / 2**20
        for place in packages.iterdir()
    }
    for engine in ENGINES.values():
        others = [name for name in sizes if name in set(ENGINES.values()) - {engine}]
        assert sum(sizes.values()) - sum(sizes[name] for name in others) < LARGEST_MB


@pytest.mark.parametrize("form", ENGINES)
@pytest.mark.parametrize(
    "method", ["patchcore", "devnet", "classifier", "yolo", "yolo-world", "sam"]
)
def test_its_answers_are_those_of_the_command(
    method: str,
    form: str,
    python: Path,
    exported: Any,
    sample_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run, folder = exported(method, form)
    images = sorted(sample_dir.rglob("test/*/*.png"))[:: 9 if method == "sam" else 5]
    with torch_in_float32():
        command("predict", run, *images, "--pictures", "none")
    wanted = [json.loads(x) for x in Path("predictions/predictions.jsonl").read_text().splitlines()]
    done = subprocess.run(
        [python, folder / "predict.py", *images],
        capture_output=True, text=True, check=True, cwd="/", env={},
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for one, other in zip(found, wanted, strict=True):
        assert set(one) == set(other)
        assert one["image"] == other["image"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-3, abs=1e-3)
        assert one["threshold"] == other["threshold"]
        if abs(other["score"] - other["threshold"]) > 1e-4:
            assert one["is_defect"] == other["is_defect"]
        shares = other.get("class_probabilities")
        assert one.get("class_probabilities") == pytest.approx(shares, abs=1e-3)
        for box, same in zip(one.get("boxes", [])[:3], other.get("boxes", [])[:3], strict=False):
            assert box["score"] == pytest.approx(same["score"], abs=1e-3)

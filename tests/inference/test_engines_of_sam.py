"""SAM in inference engines: its encoder, its decoders, and what prompts it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import toolkit
from tests.cli.command import run as command
from tests.tiny import TinyRuns
from toolkit.config import settings_dict
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.home import cache_dir
from toolkit.methods.sam.method import Sam
from toolkit.methods.sam.settings import SamSettings
from toolkit.runs.run import Run

for _engine in ("onnxruntime", "openvino"):
    pytest.importorskip(_engine)
pytestmark = pytest.mark.slow


@pytest.fixture
def images(sample_dir: Path) -> list[Path]:
    return sorted(sample_dir.rglob("test/*/*.png"))[::4]


def _folders() -> list[Path]:
    return sorted((cache_dir() / "engines").iterdir())


def _networks() -> list[Path]:
    return [folder for folder in _folders() if (folder / "model.onnx").is_file()]


def test_sam_encodes_in_an_engine_whose_files_all_its_runs_share(
    tiny_runs: TinyRuns, images: list[Path], sample_dir: Path, tmp_path: Path
) -> None:
    run = tiny_runs("sam")
    model = toolkit.load_model(run, engine="onnxruntime")
    wanted = toolkit.load_model(run)(images[:2])
    assert model.engine == "onnxruntime float32"
    for found, one in zip(model(images[:2]), wanted, strict=True):
        assert found.score == pytest.approx(one.score, abs=0.02)  # torch may encode in bfloat16
    networks = _networks()
    settings = SamSettings(
        weights=str(run.weights / "initial.safetensors"), epochs=0, points_per_side=2
    )
    dataset = load_dataset(sample_dir)
    other = Run.create(
        tmp_path, method="sam", settings=settings_dict(settings), seed=3,
        data=run.record["data"], split=run.record["split"],
    )  # fmt: skip
    Sam(settings).fit(make_plan(dataset, protocol="supervised").fold(dataset, 0), other)
    other.finish(run.metrics())  # it is not evaluated, which takes long
    toolkit.load_model(other, engine="onnxruntime")
    assert _networks() == networks


def test_sam_decodes_in_an_engine_and_so_does_what_prompts_it_predict(
    tiny_runs: TinyRuns, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_runs.prompted_sam()
    prompter = run.input("prompt_run")
    assert prompter is not None
    wanted = toolkit.load_model(run, engine="torch")(images[:2])
    capsys.readouterr()
    model = toolkit.load_model(run, engine="openvino")
    said = capsys.readouterr().err
    for owner in (f"{run.path} (once)", f"{run.path} (tuned) (once)", f"{prompter.path} (once)"):
        assert f"making the engine files of {owner}" in said
    assert model.parallel
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda path: model(path)[0].score, images[:2]))
    assert both == [result.score for result in model(images[:2])]
    program = (
        "import sys, toolkit; (found,) = toolkit.load_model(sys.argv[1], engine='openvino')"
        "(sys.argv[2]); print(repr(found.score), int(found.mask.sum()), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run.path), str(images[0])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    score, pixels, has_torch = done.stdout.split()
    first = model(images[0])[0]
    assert (float(score), int(pixels), has_torch) == (first.score, first.mask.sum(), "False")
    assert "0 damaged" in command("verify", cache_dir() / "engines").stdout
    (noted,) = set(_folders()) - set(_networks())
    (noted / "engine.json").write_text("{}")
    again = toolkit.load_model(run, engine="openvino")  # with torch, which notes it anew
    assert again(images[0])[0].score == first.score
    assert "0 damaged" in command("verify", cache_dir() / "engines").stdout
    assert "engine files" not in done.stderr
    for found, one in zip(model(images[:2]), wanted, strict=True):
        assert found.score == pytest.approx(one.score, rel=0.05)
        assert (found.mask != one.mask).mean() < 0.05

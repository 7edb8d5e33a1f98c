"""Inference engines: they agree with torch, and their files are made once and never used stale."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toolkit
from tests.cli.command import run as command
from tests.leaderboards.standin import Grey, grey  # noqa: F401
from tests.tiny import SMALL, TinyRuns
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.types import Dataset
from toolkit.errors import ConfigError, MissingExtraError, ParityError, RunError
from toolkit.home import cache_dir
from toolkit.inference import engine_files, engines, parity
from toolkit.methods import onnx_graph
from toolkit.methods.base import Predictor
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training

ENGINES = ("onnxruntime", "openvino")
for _engine in ENGINES:
    pytest.importorskip(_engine)


@pytest.fixture
def images(sample_dir: Path) -> list[Path]:
    return sorted(sample_dir.rglob("test/*/*.png"))[::4]


@pytest.fixture
def run(tiny_runs: TinyRuns) -> Run:
    return tiny_runs("padim")


@pytest.fixture(scope="module")
def made(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the files of one run, for tests that are not about how they are made."""
    home = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOOLKIT_HOME", str(home))
        toolkit.load_model(tiny_runs("padim"), engine="onnxruntime")
    return home


@pytest.fixture
def files(made: Path, run: Run) -> Path:
    """The folder of these files, in the home of the test."""
    shutil.copytree(made / "cache/engines", cache_dir() / "engines")
    (folder,) = _folders()
    return folder


def _forbid_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the files were made again")

    monkeypatch.setattr(onnx_graph, "write_onnx", refuse)


def _folders() -> list[Path]:
    return sorted((cache_dir() / "engines").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *((name, {}) for name in sorted(set(SMALL) - {"sam"})),
        ("patchcore", {"image_score": "max"}),
        ("classifier", {"tta": True}),
        ("yolo", {"tta": True}),
    ],
)
def test_engines_agree_with_torch(
    method: str,
    settings: dict[str, Any],
    tiny_runs: TinyRuns,
    images: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "_ORDER", [f"{engine} float32" for engine in ENGINES])
    run = tiny_runs(method, **settings)
    before = {f: f.read_bytes() for f in sorted(run.path.rglob("*")) if f.is_file()}
    wide = np.random.default_rng(0).integers(0, 256, (50, 120, 3), np.uint8)
    sources = [*images, wide]
    wanted = list(toolkit.load_model(run)(sources))
    for engine in ENGINES:  # in one test, because they share the file that takes long to make
        model = toolkit.load_model(run, engine=engine)
        assert model.engine == f"{engine} float32"
        for found, one in zip(model(sources), wanted, strict=True):
            _assert_close(found, one)
    assert {f: f.read_bytes() for f in sorted(run.path.rglob("*")) if f.is_file()} == before


def _assert_close(found: toolkit.Result, wanted: toolkit.Result) -> None:
    assert found.score == pytest.approx(wanted.score, rel=1e-3, abs=1e-3)
    assert wanted.threshold is not None
    if abs(wanted.score - wanted.threshold) > 1e-5:  # it is the score of a validation image
        assert found.is_defect == wanted.is_defect
    assert found.class_probabilities == pytest.approx(wanted.class_probabilities, abs=1e-3)
    if wanted.anomaly_map is not None:
        largest = float(np.abs(wanted.anomaly_map).max())
        np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, atol=1e-3 * largest)
    if wanted.boxes is not None and found.boxes is not None:
        # Further down, boxes at the confidence floor or at the IoU of suppression come and go.
        best, wanted_best = found.boxes.scores[:3], wanted.boxes.scores[:3]
        assert best == pytest.approx(wanted_best, abs=1e-3)


@pytest.mark.slow
def test_a_second_process_uses_the_files(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    toolkit.load_model(run, engine="openvino")
    assert "making the engine files" in capfd.readouterr().err
    program = (
        "import sys, toolkit; print(toolkit.load_model(sys.argv[1], engine='openvino').engine)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("openvino ")
    assert "engine files" not in done.stderr


def test_engines_are_compared_until_one_agrees_and_others_when_they_are_wanted(
    run: Run, images: list[Path], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def compared() -> dict[str, Any]:
        record = json.loads((files / "engine.json").read_text())
        assert record["checked"] == "4 validation images"
        engines: dict[str, Any] = record["engines"]
        return engines

    network = (files / "model.onnx").stat().st_mtime_ns
    assert list(compared()) == ["onnxruntime float32"]
    assert compared()["onnxruntime float32"]["passed"]
    model = toolkit.load_model(run, engine="auto")
    assert "comparing openvino " in capsys.readouterr().err
    bfloat16 = compared().get("openvino bfloat16", {}).get("passed")
    assert model.engine == ("openvino bfloat16" if bfloat16 else "openvino float32")
    assert ("openvino float32" in compared()) != bool(bfloat16)
    assert len(model(images)) == len(images)
    for engine in ("auto", "openvino", "onnxruntime"):
        toolkit.load_model(run, engine=engine)
    assert capsys.readouterr().err == ""
    assert (files / "model.onnx").stat().st_mtime_ns == network


@pytest.mark.parametrize(("lost", "kept"), [(0.004, True), (0.006, False)])
def test_bfloat16_is_judged_on_the_validation_part(
    lost: float, kept: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "openvino bfloat16" not in engine_files.variants(["openvino"]):
        pytest.skip("this processor has no bfloat16")
    compared: list[str] = []

    def compare(of: Run, dataset: Dataset, predictor: Predictor, precision: str) -> parity.Gate:
        compared.append(precision)
        return parity.Gate(8, 0.01, 0.05, 0, {"image auroc": (0.9, 0.9 - lost)}, lost)

    monkeypatch.setattr(parity, "compare_validation", compare)
    model = toolkit.load_model(run, engine="openvino")
    assert model.engine == ("openvino bfloat16" if kept else "openvino float32")
    assert compared == ["bfloat16"]


@pytest.mark.slow
def test_a_run_is_evaluated_in_the_engine_that_predicts(
    sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOOLKIT_ENGINE")
    run = toolkit.train("padim", sample_dir, runs=tmp_path, device="cpu", **SMALL["padim"])
    stored = list(read_predictions(run.predictions, "test"))
    model = toolkit.load_model(run)
    assert model.engine == run.metadata["engine"] != "torch"
    found = model([sample_dir / str(one.sample_id) for one in stored])
    assert [one.score for one in found] == [one.score for one in stored]


@pytest.mark.slow
def test_other_weights_have_other_files(
    tiny_runs: TinyRuns, files: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first = files
    other = tiny_runs("padim", seed=7)
    model = toolkit.load_model(other, engine="onnxruntime")
    (second,) = set(_folders()) - {first}
    wanted = toolkit.load_model(other)(images)
    assert [r.score for r in model(images)] == pytest.approx([r.score for r in wanted], rel=1e-3)

    shutil.rmtree(second)
    shutil.copytree(first, second)
    model = toolkit.load_model(other, engine="onnxruntime")
    assert f"{second}: not what was made from {other.path}" in capsys.readouterr().err
    assert [r.score for r in model(images)] == pytest.approx([r.score for r in wanted], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["other network", "truncated", "no record", "no network"])
def test_files_from_elsewhere_are_made_again(
    damage: str, run: Run, files: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = toolkit.load_model(run, engine="onnxruntime")(images)
    assert "making" not in capsys.readouterr().err
    path = files / "model.onnx"
    if damage == "other network":
        onnx_graph.write_onnx(torch.nn.ReLU(), {"x": torch.zeros(1, 64, 64, 3)}, ["y"], path)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "no record":
        (files / "engine.json").unlink()
    else:
        path.unlink()
    found = toolkit.load_model(run, engine="onnxruntime")(images)
    assert "making it again" in capsys.readouterr().err
    assert [r.score for r in found] == [r.score for r in wanted]


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [
        ("onnxruntime", "onnxruntime", "onnx"),
        ("openvino", "openvino", None),
        ("openvino", "onnx", None),
    ],
)
def test_an_engine_that_is_not_installed_is_named_with_its_extra(
    engine: str, package: str, extra: str | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    wanted = package if extra is None else rf"'inspection-toolkit\[{extra}\]'"
    message = rf"^{package} is needed to predict .*pip install {wanted}$"
    with pytest.raises(MissingExtraError, match=message):
        toolkit.load_model(run, engine=engine)


def test_auto_without_an_engine_is_torch(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ENGINES:
        monkeypatch.setitem(sys.modules, package, None)
    assert toolkit.load_model(run, engine="auto").engine == "torch"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("engine torch: no other engine is installed (pip install")


@pytest.mark.slow
def test_one_engine_is_enough(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert toolkit.load_model(run, engine="openvino").engine.startswith("openvino ")


@pytest.mark.slow
def test_an_engine_that_differs_is_not_used(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = engine_files.open_engine

    def twice(path: Path, name: str) -> Any:
        engine = opened(path, name)
        return lambda image: [2 * one for one in engine(image)]

    monkeypatch.setattr(engine_files, "open_engine", twice)
    with pytest.raises(ParityError, match=r"openvino differs from torch.*use: --engine auto"):
        toolkit.load_model(run, engine="openvino")
    capsys.readouterr()
    assert toolkit.load_model(run, engine="auto").engine == "torch"
    compared, line = capsys.readouterr().err.splitlines()
    assert compared.startswith("comparing onnxruntime float32 ")
    assert line.startswith("engine torch: no other engine agrees")


def test_a_network_that_is_no_onnx(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("unsupported operator\nmore")

    monkeypatch.setattr(onnx_graph, "write_onnx", fail)
    with pytest.raises(RunError, match=r"cannot be written as ONNX \(unsupported operator\)"):
        toolkit.load_model(run, engine="openvino")
    assert toolkit.load_model(run, engine="auto").engine == "torch"
    assert "engine torch: " in capsys.readouterr().err


def test_a_cache_that_cannot_be_written(
    run: Run, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cache_dir().parent.mkdir(parents=True, exist_ok=True)
    cache_dir().write_text("a file where the folder should be")
    model = toolkit.load_model(run, engine="openvino")
    assert "the next process makes the engine files again" in capsys.readouterr().err
    wanted = [r.score for r in toolkit.load_model(run)(images)]
    assert [r.score for r in model(images)] == pytest.approx(wanted, rel=0.15)  # bfloat16


def test_noise_takes_the_place_of_images_that_are_gone(sample_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(sample_dir, tmp_path / "data")
    run = toolkit.train("padim", tmp_path / "data", runs=tmp_path, device="cpu", **SMALL["padim"])
    shutil.rmtree(tmp_path / "data")
    assert toolkit.load_model(run, engine="openvino").engine == "openvino float32"
    (folder,) = _folders()
    assert json.loads((folder / "engine.json").read_text())["checked"] == "4 images of noise"


def test_an_engine_that_does_not_exist(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"engine openvin: unknown; did you mean 'openvino'\?"):
        toolkit.load_model(run, engine="openvin")


def test_a_run_of_another_device(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing(Predictor):
        predict = None  # type: ignore[assignment]

    monkeypatch.setattr(Run, "device", "cuda:0")
    with pytest.raises(ConfigError, match=r"predicts on cuda:0.*use: --engine torch"):
        engines.use_engine(Nothing, run, "openvino")  # type: ignore[arg-type]
    assert engines.use_engine(Nothing, run, "auto")[1] == "torch"  # type: ignore[arg-type]


def test_a_method_that_runs_in_torch_alone(
    sample_dir: Path,
    tmp_path: Path,
    grey: type[Grey],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    split = make_plan(load_dataset(sample_dir), folds=3).fold(load_dataset(sample_dir), 0)
    run = run_training(TrainingTask("grey", "grey", device="cpu"), split, runs=tmp_path)
    with pytest.raises(ConfigError, match="grey runs in torch alone; use: --engine torch"):
        toolkit.load_model(run, engine="openvino")
    capsys.readouterr()
    assert toolkit.load_model(run, engine="auto").engine == "torch"
    assert capsys.readouterr().err == "engine torch: grey runs in torch alone\n"


def test_the_command(
    run: Run, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("predict", run.path, images[0], "--engine", "openvino")
    assert result.exit_code == 0
    assert "engine openvino " in result.stderr
    _forbid_writing(monkeypatch)
    assert command("predict", run.path, images[0], "--engine", "openvino").exit_code == 0

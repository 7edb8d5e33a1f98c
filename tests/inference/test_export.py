"""Exports: kept when they agree with the run, in the precision that passes, and they run alone."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.tiny import SMALL, TinyRuns, torch_in_float32
from toolkit.data.layouts import load_dataset
from toolkit.data.synthetic import make_sample
from toolkit.decisions.calibrate import calibrate
from toolkit.errors import ConfigError, ParityError, RunError
from toolkit.inference import export as export_module
from toolkit.inference import parity
from toolkit.inference.export import Precision, export_run
from toolkit.inference.quantize import quantize_onnx
from toolkit.methods.registry import load_method
from toolkit.runs.prediction_io import read_predictions, write_predictions
from toolkit.runs.run import Run
from toolkit.runtime import exported as exported_module
from toolkit.runtime.exported import Exported, ModelError, read_rgb

for _engine in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(_engine)

EXPORTED = sorted(set(SMALL) - {"sam"})


def exported(run: Run, out: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    dataset = load_dataset(run.record["data"]["root"])
    manifest = export_run(run, load_method(run), dataset, out, say=said.append, **options)
    return manifest, said


@pytest.fixture(scope="module")
def padim_folder(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported PaDiM, of which tests take copies."""
    out = tmp_path_factory.mktemp("exported") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOOLKIT_HOME", str(tmp_path_factory.mktemp("home")))
        exported(tiny_runs("padim"), out)
    return out


@pytest.fixture
def images(sample_dir: Path) -> list[Path]:
    return sorted(sample_dir.rglob("test/*/*.png"))[::5]


@pytest.mark.slow
@pytest.mark.parametrize("method", EXPORTED)
@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_the_folder_predicts_as_the_run_does(
    method: str,
    form: str,
    tiny_runs: TinyRuns,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tiny_runs(method)
    manifest, said = exported(run, tmp_path / "out", form=form)
    assert manifest["precision"] == "float32"
    assert "kept" in said[0]
    wanted = toolkit.load_model(run)(images)
    model = toolkit.load_model(tmp_path / "out")
    assert model.threshold == wanted[0].threshold
    assert model.classes == toolkit.load_model(run).classes
    if method == "padim":  # a process of its own once per form: it starts for seconds
        printed = subprocess.run(
            [sys.executable, tmp_path / "out/predict.py", *images],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        ).stdout  # fmt: skip
    else:
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, images)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(tmp_path / "out/predict.py"), run_name="__main__")
        assert end.value.code == 0
        printed = capsys.readouterr().out
    lines = [json.loads(line) for line in printed.splitlines()]
    for one, other, line, path in zip(model(images), wanted, lines, images, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-3, abs=1e-3)
        assert line == {**one.to_dict(), "image": str(path)}
        assert other.threshold is not None
        if abs(other.score - other.threshold) > 1e-4:
            assert one.is_defect == other.is_defect


@pytest.mark.slow
def test_sam_is_exported_with_what_prompts_it(
    tiny_runs: TinyRuns, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_runs.prompted_sam()
    with torch_in_float32():
        manifest, said = exported(run, tmp_path / "out", form="openvino")
    assert "kept" in said[0]
    files = {"model", "tuned", "tuned_ious", "prompt_run-model"}
    assert {Path(name).stem for name in manifest["sha256"]} == files
    wanted = toolkit.load_model(run, engine="torch")(images[:2])
    for one, other in zip(toolkit.load_model(tmp_path / "out")(images[:2]), wanted, strict=True):
        assert one.score == pytest.approx(other.score, rel=0.05)
        assert (one.mask != other.mask).mean() < 0.05
    monkeypatch.setattr(sys, "argv", ["predict.py", str(images[0]), "--maps", str(tmp_path / "m")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(tmp_path / "out/predict.py"), run_name="__main__")
    assert end.value.code == 0
    (drawn,) = (tmp_path / "m").iterdir()
    mask = toolkit.load_model(tmp_path / "out")(images[0])[0].mask
    np.testing.assert_array_equal(read_rgb(drawn)[..., 0] > 0, mask)


@pytest.mark.slow
def test_sam_with_several_views_has_no_export(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="sam has no such export with these settings"):
        exported(tiny_runs("sam", tta=True, tta_views=2), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_int8_is_kept_where_it_passes(
    form: str,
    tiny_runs: TinyRuns,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if form == "openvino":
        pytest.importorskip("nncf")
    # 128 pixels and five validation images are coarser than what the gates were made for.
    monkeypatch.setattr(parity, "SCORE_TOLERANCE", 1.0)
    monkeypatch.setattr(parity, "METRIC_TOLERANCE", 0.5)
    run = tiny_runs("patchcore", weights="pretrained", image_size=128)
    exported(run, tmp_path / "float", form=form)
    manifest, said = exported(run, tmp_path / "int8", form=form, precision="int8")
    assert manifest["precision"] == "int8", said
    assert len(said) == 1

    def size(name: str) -> int:
        return sum(f.stat().st_size for f in (tmp_path / name).glob("model.*"))

    assert size("int8") < 0.5 * size("float")
    scores = [r.score for r in toolkit.load_model(tmp_path / "int8")(images)]
    plain = [r.score for r in toolkit.load_model(tmp_path / "float")(images)]
    assert scores != plain
    assert np.corrcoef(scores, plain)[0, 1] > 0.8


@pytest.mark.parametrize(
    ("form", "tried"),
    [("onnx", ["int8", "float32"]), ("openvino", ["int8", "bfloat16", "float32"])],
)
def test_what_differs_falls_back_one_step_and_says_so(
    form: str,
    tried: list[Precision],
    tiny_runs: TinyRuns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compare = export_module.compare_validation

    def worse(run: Run, dataset: Any, predictor: Any, precision: Precision) -> Any:
        if precision == "float32":
            return compare(run, dataset, predictor, precision)
        return parity.Gate(4, 0.0, 0.05, 0, {"image auroc": (0.9, 0.894)}, 0.006)

    def copy(source: Path, target: Path, inputs: Any) -> None:
        assert len(inputs) == len(run.record["split"]["train"])
        target.write_bytes(source.read_bytes())

    run = tiny_runs("padim")
    monkeypatch.setattr(export_module, "compare_validation", worse)
    monkeypatch.setattr(export_module, "quantize_onnx", copy)
    monkeypatch.setattr(export_module, "quantize_openvino", copy)
    manifest, said = exported(run, tmp_path / "out", form=form, precision="int8")
    assert [line.split()[1].rstrip(":") for line in said] == tried
    assert ["not kept" in line for line in said] == [True] * (len(tried) - 1) + [False]
    assert manifest["precision"] == "float32"
    model = "model.onnx" if form == "onnx" else "model.xml"
    weights = {"model.bin"} if form == "openvino" else set()
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        model, "manifest.json", "predict.py", *weights,
    }  # fmt: skip


@pytest.mark.parametrize("shift", [0.01, np.nan])
def test_one_that_differs_is_not_written(
    shift: float, tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = exported_module.open_network

    def shifted(*words: Any, **more: Any) -> Any:
        network = opened(*words, **more)
        return lambda image: [one * (1 + shift) for one in network(image)]

    monkeypatch.setattr(exported_module, "open_network", shifted)
    with pytest.raises((ParityError, RunError)):
        exported(tiny_runs("padim"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("engine", "kept"), [("openvino float32", False), ("openvino bfloat16", True)]
)
def test_float32_is_as_near_as_the_precision_that_the_run_was_evaluated_in(
    engine: str, kept: bool, tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    trained = tiny_runs("padim")
    shutil.copytree(trained.path, tmp_path / "run")
    finished = Run.open(tmp_path / "run")
    metadata = {**finished.metadata, "engine": engine}
    run = replace(finished, record={**finished.record, "metadata": metadata})
    stored = list(read_predictions(run.predictions, "val"))
    spread = np.ptp([one.score for one in stored])
    # A metric that is lower than that of the run tells nothing against float32.
    defects = {s.id for s in load_dataset(run.record["data"]["root"]).samples if s.is_defect}
    moved = [
        replace(one, score=one.score + (0.05 if one.sample_id in defects else -0.05) * spread)
        for one in stored
    ]
    write_predictions(run.predictions, "val", moved)
    if kept:
        manifest, said = exported(run, tmp_path / "out")
        assert manifest["precision"] == "float32"
        assert "allowed 0.1" in said[0]
    else:
        with pytest.raises(ParityError, match=r"allowed 0\.001"):
            exported(run, tmp_path / "out")


def test_a_calibration_goes_along(tiny_runs: TinyRuns, images: list[Path], tmp_path: Path) -> None:
    run = tiny_runs("padim")
    new = make_sample(tmp_path / "new", seed=9, size=128, train_good=8, test_good=1, per_defect=1)
    model = toolkit.load_model(run)
    card = calibrate(model, new / "train/good", max_false_alarms=0.3, confidence=0.5).card
    exported(run, tmp_path / "out", calibration=card)
    wanted = toolkit.load_model(run, calibration=card)(images)
    for found, other in zip(toolkit.load_model(tmp_path / "out")(images), wanted, strict=True):
        assert (found.outcome, found.p_value) == (other.outcome, other.p_value)
        assert found.threshold == other.threshold
    alone = Exported.open(tmp_path / "out")
    for other in wanted:
        decision = alone.decision(other.score)
        assert decision["outcome"] == other.outcome
        assert decision["p_value"] == pytest.approx(other.p_value)
    with pytest.raises(ConfigError, match="an exported model holds its calibration"):
        toolkit.load_model(tmp_path / "out", calibration=card)
    with pytest.raises(ConfigError, match="was exported for onnxruntime float32"):
        toolkit.load_model(tmp_path / "out", engine="openvino")
    with pytest.raises(RunError, match="give the run"):
        _ = toolkit.load_model(tmp_path / "out").run


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: (f / "manifest.json").write_text("{"), "not a readable manifest"),
        (lambda f: (f / "manifest.json").write_text('{"schema": 99}'), "another schema"),
        (lambda f: (f / "manifest.json").write_text('{"schema": 1}'), "no sha256"),
        (lambda f: (f / "model.onnx").write_bytes(b"other"), "not the file that was exported"),
        (lambda f: (f / "model.onnx").unlink(), "cannot be read"),
    ],
    ids=["json", "schema", "key", "weights", "no-weights"],
)
def test_a_damaged_folder(
    change: Callable[[Path], Any], match: str, padim_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(padim_folder, tmp_path / "out")
    change(tmp_path / "out")
    with pytest.raises(RunError, match=match):
        toolkit.load_model(tmp_path / "out")


def test_an_image_that_cannot_be_read_is_left_out(
    padim_folder: Path, images: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(padim_folder, tmp_path / "out")
    (tmp_path / "new").mkdir()
    data = images[0].read_bytes()
    for name, content in (("a", data), ("b", data[:-60]), ("c", b""), ("d", data)):
        (tmp_path / f"new/{name}.png").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "out/predict.py", "new", "--maps", "maps"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert [Path(json.loads(x)["image"]).name for x in done.stdout.splitlines()] == [
        "a.png", "d.png",
    ]  # fmt: skip
    assert done.stderr.count("left out: ") == 2
    assert len(list((tmp_path / "maps").glob("*.npy"))) == 2


def test_pixels_are_those_that_the_toolkit_reads(sample_dir: Path, tmp_path: Path) -> None:
    import cv2

    from toolkit.data.images import read_rgb as read

    picture = read(next(sample_dir.rglob("*.png")))
    for name, image in (
        ("rgb.png", picture), ("rgb.jpg", picture), ("grey.png", picture[..., 0]),
        ("grey.jpg", picture[..., 0]), ("a.bmp", picture), ("a.webp", picture),
        ("deep.png", picture.astype(np.uint16) * 257),
    ):  # fmt: skip
        assert cv2.imwrite(str(tmp_path / name), image)
        np.testing.assert_array_equal(read_rgb(tmp_path / name), read(tmp_path / name))
    with pytest.raises(ModelError, match="check the path"):
        read_rgb(tmp_path / "missing.png")


def test_convolutions_alone_are_quantized(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    import onnx

    manifest, _ = exported(tiny_runs("patchcore"), tmp_path / "out")
    shape = (2, 1, *manifest["steps"]["input_hw"], 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    quantize_onnx(tmp_path / "out/model.onnx", tmp_path / "int8.onnx", list(noise))
    graph = onnx.load(str(tmp_path / "int8.onnx")).graph
    made = {node.output[0]: node.op_type for node in graph.node}
    kinds: dict[str, set[str]] = {}
    for node in graph.node:
        kinds.setdefault(node.op_type, set()).update(made.get(name, "") for name in node.input)
    assert "DequantizeLinear" in kinds["Conv"]
    for kind in {"MatMul", "Gemm", "Sqrt"} & set(kinds):
        assert not kinds[kind] & {"DequantizeLinear", "QuantizeLinear"}
